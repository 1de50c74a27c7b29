"""Packs a model's weights for the kernels, in a process of its own.

Started as `python -m everloop.engine.native.packing JSON` by `packed.open_packed`; says what went
wrong as one line of JSON on standard output.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from everloop.engine.native import library
from everloop.engine.native.calibration import ids_for, record
from everloop.engine.native.compensating import Directions, directions
from everloop.engine.native.equalizing import equalize
from everloop.engine.native.packed import ALIGNMENT, write_packed
from everloop.errors import DataError, EverloopError
from everloop.model import checkpoint
from everloop.model.config import ModelConfig
from everloop.model.transformer import Transformer

PANEL = 64  # kPanel: outputs in a panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One tensor of the packed file and where it comes from."""

    name: str
    sources: tuple[str, ...]
    bits: int = 0  # 0: a vector
    gate: bool = False
    bias: bool = False


def parts_of(config: ModelConfig, bits: int) -> list[Part]:
    """Everything that a packed model consists of, in the order of its use."""
    parts = [Part(name="embedding", sources=("model.embed_tokens.weight",), bits=8)]
    for i in range(config.num_hidden_layers):
        there, here = f"model.layers.{i}", f"layers.{i}"
        qkv = tuple(f"{there}.self_attn.{x}_proj" for x in "qkv")
        up = (f"{there}.mlp.gate_proj", f"{there}.mlp.up_proj")
        parts.append(Part(name=f"{here}.before", sources=(f"{there}.input_layernorm.weight",)))
        if config.qk_norm:
            for x in "qk":
                source = f"{there}.self_attn.{x}_norm.weight"
                parts.append(Part(name=f"{here}.{x}_norm", sources=(source,)))
        parts.append(
            Part(name=f"{here}.after", sources=(f"{there}.post_attention_layernorm.weight",))
        )
        for name, sources, biased, gate in (
            ("qkv", qkv, config.attention_bias, False),
            ("o", (f"{there}.self_attn.o_proj",), config.output_bias, False),
            ("gate_up", up, config.mlp_bias, True),
            ("down", (f"{there}.mlp.down_proj",), config.mlp_bias, False),
        ):
            weights = tuple(f"{s}.weight" for s in sources)
            parts.append(Part(name=f"{here}.{name}", sources=weights, bits=bits, gate=gate))
            if biased:
                biases = tuple(f"{s}.bias" for s in sources)
                parts.append(Part(name=f"{here}.{name}.bias", sources=biases, gate=gate, bias=True))
    parts.append(Part(name="norm", sources=("model.norm.weight",)))
    if not config.tie_word_embeddings:
        parts.append(Part(name="head", sources=("lm_head.weight",), bits=8))
    return parts


def pack_model(
    config: ModelConfig, model: Transformer, path: Path, *, bits: int, key: str, ids: Tensor
) -> None:
    """Writes the packed form of `model` to `path`. Raises DataError for a weight that is NaN or
    infinite."""
    native: Any = library.load()
    state = {name: value.detach() for name, value in model.state_dict().items()}
    parts = parts_of(config, bits)
    folded = equalize(model, record(model, ids))
    shapes: dict[str, tuple[str, int]] = {}
    matrices: dict[str, tuple[int, int, int]] = {}
    for part in parts:
        outputs = sum(state[s].shape[0] for s in part.sources)
        if not part.bits:
            whole = -(-outputs // PANEL) * PANEL
            shapes[part.name] = ("F32", whole * 4)
            continue
        inputs = state[part.sources[0]].shape[1]
        size = native.packed_bytes(part.bits, outputs, inputs)
        if not size:
            raise DataError(f"{part.sources[0]} has {inputs} inputs, too many.", path=str(path))
        matrices[part.name] = (part.bits, outputs, inputs)
        shapes[part.name] = ("U8", size)
    count = config.head_dim // 2
    shapes["frequencies"] = ("F32", -(-count // PANEL) * PANEL * 4)

    def arrays() -> Iterator[tuple[str, npt.NDArray[Any]]]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for part in parts:
                value = torch.cat([folded.apply(s, state[s]) for s in part.sources]).contiguous()
                if part.bits:
                    inputs = folded.inputs.get(part.sources[0].removesuffix(".weight"))
                    way = Directions() if inputs is None else directions(native, inputs)
                    size = shapes[part.name][1]
                    yield part.name, _matrix(native, pool, part, value, size, way)
                elif part.bias:
                    out = np.empty(shapes[part.name][1] // 4, np.float32)
                    native.pack_bias(value.numpy(), len(value), part.gate, out)
                    yield part.name, out
                else:
                    yield part.name, _padded(value, shapes[part.name][1])
        yield "frequencies", _padded(model.frequencies, shapes["frequencies"][1])

    write_packed(
        path,
        shapes,
        arrays(),
        {"key": key, "bits": str(bits), "matrices": json.dumps(matrices)},
    )


def _matrix(
    native: Any, pool: ThreadPoolExecutor, part: Part, value: Tensor, size: int, way: Directions
) -> npt.NDArray[np.uint8]:
    outputs, inputs = value.shape
    out = np.empty(size, np.uint8)
    assert out.ctypes.data % 16 == 0
    panels = -(-outputs // PANEL)
    each = size // panels
    weight = value.numpy()

    def some(first: int, last: int) -> int:
        place = out[first * each : last * each]
        shape = (part.bits, weight, outputs, inputs, part.gate)
        return int(native.pack(*shape, first, last, place, way.components, way.responses))

    step = max(1, panels // (4 * (os.cpu_count() or 1)))
    ranges = [(first, min(first + step, panels)) for first in range(0, panels, step)]
    for bad in pool.map(lambda r: some(*r), ranges):
        if bad >= 0:
            row = bad // inputs
            raise DataError(
                f"{' + '.join(part.sources)} has a weight that is not finite or too large "
                f"(row {row}, column {bad % inputs}).",
                path=part.name,
                repair="The file is broken or its training diverged: use another one.",
            )
    return out


def _padded(value: Tensor, size: int) -> npt.NDArray[np.float32]:
    out = np.zeros(size // 4, np.float32)
    out[: value.numel()] = value.float().flatten().numpy()
    return out


def main(setup: dict[str, Any]) -> int:
    """Packs what `setup` names."""
    try:
        directory, adapter = Path(setup["directory"]), setup["adapter"]
        if adapter is None:
            config, model = checkpoint.load(directory, dtype=None)
        else:
            from everloop.model.lora import load_merged

            config, model = load_merged(Path(adapter), directory)
        path = Path(setup["path"])
        ids = ids_for(directory, model)
        pack_model(config, model, path, bits=setup["bits"], key=setup["key"], ids=ids)
    except EverloopError as error:
        told = {"kind": type(error).__name__, "message": error.message, "param": error.param}
    except OSError as error:
        message = f"{setup['path']} can't be written: {error.strerror}. EVERLOOP_HOME moves it."
        told = {"kind": "EverloopError", "message": message, "param": None}
    else:
        return 0
    print(json.dumps(told))
    return 1


assert ALIGNMENT == PANEL

if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

"""From a model directory to a backend: which kind, with how many threads and blocks."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from everloop.engine.native import library
from everloop.engine.native.backend import Backend
from everloop.engine.native.drafting import most_rows
from everloop.engine.native.memory import available_memory, plan_blocks, token_bytes
from everloop.engine.native.options import NativeOptions
from everloop.errors import InvalidRequest
from everloop.model.config import ModelConfig
from everloop.model.early_exit import EarlyExits

if TYPE_CHECKING:
    from everloop.model.transformer import Transformer

SMALL = 20_000_000
"""Matrix weights below which a product in PyTorch takes no longer than waking a second thread, and
many times longer when that thread's core is busy with something else."""

BITS = {"int8": 8, "int4": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A backend and what to tell of it. `note`: why it isn't the one expected."""

    config: ModelConfig
    backend: Backend
    kv_bytes: int
    note: str = ""


def load_backend(directory: Path, adapter: Path | None, options: NativeOptions) -> Loaded:
    """Loads a model directory, with an adapter merged in if there is one.

    Raises InvalidRequest where the weights, the quantization or the memory can't be had, with the
    numbers; DataError for files that are broken.
    """
    bits, note = choose_bits(options.quantization)
    gpu = on_gpu(directory, options)
    if options.kv_bits == 8 and (gpu or not bits):
        raise InvalidRequest(
            "kv_bits=8 is for the compiled kernels, but this model would run in PyTorch. Set "
            "kv_bits=16, or quantization=int8 and device=cpu where the native library runs.",
            param="kv_bits",
        )
    if gpu:
        loaded = _gpu(directory, adapter, options)
    elif bits:
        loaded = _compiled(directory, adapter, options, bits)
    else:
        loaded = _eager(directory, adapter, options, note)
    exits = None if adapter is not None else EarlyExits.load(directory, loaded.config)
    if exits is not None:
        loaded.backend.open_exits(exits)
    return loaded


def choose_bits(quantization: str) -> tuple[int, str]:
    """Bits of a weight, 0 for float32, and why it isn't 8 where that would be expected."""
    if quantization == "none":
        return 0, ""
    try:
        native = library.load()
    except library.Missing as error:
        if quantization != "auto":
            raise InvalidRequest(
                f"quantization={quantization} needs the native library, but {error}. "
                "quantization=none works without it.",
                param="quantization",
            ) from None
        return 0, f"Serving float32 weights through PyTorch, several times slower: {error}."
    if (
        quantization == "auto"
        and native.isa == "portable"
        and library.ISA_VARIABLE not in os.environ
    ):
        return 0, (
            "Serving float32 weights through PyTorch: this processor has neither AVX2 nor "
            "AVX-512 VNNI. quantization=int8 saves memory all the same."
        )
    return BITS.get(quantization, 8), ""


def on_gpu(directory: Path, options: NativeOptions) -> bool:
    """Whether the model goes to a GPU. InvalidRequest where one is asked for and can't be had."""
    if options.device == "cpu":
        return False
    wanted = options.device == "cuda"
    quantized = options.quantization not in ("auto", "none")
    if wanted and quantized:
        raise InvalidRequest(
            f"device=cuda serves bfloat16 weights, not quantization={options.quantization}: set "
            "quantization=auto, or device=cpu.",
            param="quantization",
        )
    if not wanted:
        # Looked at before PyTorch is loaded, which takes a second and 200 MB.
        if quantized or not Path("/dev/nvidiactl").exists():
            return False
        if is_small(ModelConfig.load(directory)):
            return False
    import torch

    found = torch.cuda.is_available()
    if wanted and not found:
        raise InvalidRequest(
            "device=cuda, but PyTorch finds no CUDA device here (look at `nvidia-smi`, and whether "
            "this PyTorch is a CUDA build). device=cpu works without one.",
            param="device",
        )
    return found


def _compiled(directory: Path, adapter: Path | None, options: NativeOptions, bits: int) -> Loaded:
    from everloop.engine.native.compiled import CompiledBackend
    from everloop.engine.native.packed import open_packed

    place = options.cache_dir or str(Path(tempfile.gettempdir()) / f"everloop-{os.getuid()}")
    packed = open_packed(directory, adapter, bits=bits, cache=Path(place))
    config = packed.config
    size = CompiledBackend.block_size
    blocks = plan_blocks(config, options, available_memory(), block_size=size, bits=options.kv_bits)
    backend = CompiledBackend(
        packed,
        blocks=blocks,
        threads=options.threads or _cores(),  # at most: each step takes as many as make it quick
        max_rows=options.prefill_chunk + most_rows(config.vocab_size, options.max_running),
        kv_bits=options.kv_bits,
    )
    return Loaded(
        config=config,
        backend=backend,
        kv_bytes=blocks * size * token_bytes(config, bits=options.kv_bits),
    )


def _eager(directory: Path, adapter: Path | None, options: NativeOptions, note: str) -> Loaded:
    import torch

    from everloop.engine.native.eager import EagerBackend
    from everloop.engine.native.runner import Runner

    config, model = _weights(directory, adapter)
    torch.set_num_threads(options.threads or (1 if is_small(config) else _cores()))
    size = options.block_size
    blocks = plan_blocks(config, options, available_memory(), block_size=size, bits=32)
    runner = Runner(config, model, blocks=blocks, block_size=size)
    kv_bytes = blocks * size * token_bytes(config, bits=32)
    return Loaded(config=config, backend=EagerBackend(runner), kv_bytes=kv_bytes, note=note)


def _gpu(directory: Path, adapter: Path | None, options: NativeOptions) -> Loaded:
    import torch

    from everloop.engine.native.device import DeviceRunner
    from everloop.engine.native.eager import EagerBackend

    config, model = _weights(directory, adapter)
    device = torch.device("cuda")
    model = model.to(device=device, dtype=torch.bfloat16)
    size = options.block_size
    free = torch.cuda.mem_get_info(device)[0]
    blocks = plan_blocks(config, options, free, block_size=size, bits=16)
    runner = DeviceRunner(config, model, blocks=blocks, block_size=size, device=device)
    kv_bytes = blocks * size * token_bytes(config, bits=16)
    return Loaded(config=config, backend=EagerBackend(runner), kv_bytes=kv_bytes)


def _weights(directory: Path, adapter: Path | None) -> tuple[ModelConfig, Transformer]:
    from everloop.model import checkpoint

    if adapter is None:
        return checkpoint.load(directory)
    from everloop.model.lora import load_merged

    return load_merged(adapter, directory)


def is_small(config: ModelConfig) -> bool:
    """Whether PyTorch computes this model as fast with one thread as with several."""
    return config.matmul_parameters < SMALL


def _cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1

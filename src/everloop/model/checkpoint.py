"""A model directory in Hugging Face's layout: config.json, safetensors (one file, or shards with
an index), tokenizer and template. What is saved loads in transformers, vLLM and llama.cpp.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from everloop.errors import DataError, InvalidRequest
from everloop.model.atomic import new_directory
from everloop.model.config import ModelConfig
from everloop.model.rope import inverse_frequencies
from everloop.model.safetensors import load_tensors, save_tensors
from everloop.model.transformer import Transformer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
)
"""What belongs to a model beside its config and weights."""

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


def load(
    directory: Path, *, dtype: torch.dtype | None = torch.float32
) -> tuple[ModelConfig, Transformer]:
    """Reads a model directory. Weights that already have `dtype` (None: the file's own) stay
    memory-mapped, so that loading takes no time and processes share the pages.

    Raises DataError for weights that are missing, too many, misshapen, broken or pickled, and
    InvalidRequest for a config that the Transformer doesn't compute.
    """
    files = weight_files(directory)
    config = ModelConfig.load(directory)
    tensors = _read(files)
    # Before the modules exist: a config may claim a million layers, the file can't.
    if config.num_hidden_layers > len(tensors):
        raise DataError(
            f"has {len(tensors)} tensors, config.json promises {config.num_hidden_layers} layers.",
            path=str(directory),
            repair="Take both from the same model.",
        )
    model = _empty(config)
    _check(directory, config, tensors, model.state_dict())
    state = {name: t if dtype is None else t.to(dtype) for name, t in tensors.items()}
    if config.tie_word_embeddings:
        state[_HEAD] = state[_EMBEDDING]
    model.load_state_dict(state, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.frequencies = inverse_frequencies(config)
    return config, model


def save(
    directory: Path,
    model: Transformer,
    config: ModelConfig,
    *,
    tokenizer_dir: Path | None = None,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 5 * 10**9,
) -> None:
    """Writes a new model directory, all or nothing. `dtype` None keeps each weight's own type;
    `tokenizer_dir` is where tokenizer, template and generation settings are copied from.

    Equal weights give equal bytes. Raises InvalidRequest if `directory` is taken, if the model has
    unmerged adapters, or if fp16 can't hold a weight.
    """
    expected = list(_empty(config).state_dict())
    tensors = {name: t for name, t in model.state_dict().items() if not is_adapter(name)}
    if len(tensors) < len(model.state_dict()):
        raise InvalidRequest("The model has LoRA layers: merge them, or save the adapter alone.")
    assert list(tensors) == expected, "the model doesn't have its config's parameters"
    if config.tie_word_embeddings:
        del tensors[_HEAD]
    stored = dtype or tensors[_EMBEDDING].dtype
    with new_directory(directory) as work:
        # Old readers know only this name, transformers 5 reads it too.
        value = {**config.to_json(), "torch_dtype": str(stored).removeprefix("torch.")}
        write_json(work / "config.json", value)
        write_weights(work, tensors, dtype=dtype, max_shard_bytes=max_shard_bytes)
        if tokenizer_dir is not None:
            copy_text_files(tokenizer_dir, work)


def write_weights(
    directory: Path,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None,
    max_shard_bytes: int,
) -> None:
    """Writes model.safetensors, or shards and their index where it would exceed
    `max_shard_bytes`."""
    size = {n: t.numel() * (dtype or t.dtype).itemsize for n, t in tensors.items()}
    shards: list[list[str]] = [[]]
    filled = 0
    for name in tensors:
        if shards[-1] and filled + size[name] > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size[name]
    total = len(shards)
    files = [_SINGLE]
    if total > 1:
        files = [f"model-{i + 1:05d}-of-{total:05d}.safetensors" for i in range(total)]
        names = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": sum(size.values())}, "weight_map": names}
        write_json(directory / _INDEX, index)
    for file, shard in zip(files, shards, strict=True):
        cast = {name: _cast(name, tensors[name], dtype) for name in shard}
        save_tensors(directory / file, cast, {"format": "pt"})


def weight_files(directory: Path) -> dict[Path, list[str] | None]:
    """The safetensors files of a model directory, each with the tensors that the index promises
    (None: no index). Raises DataError where there are none, saying what to do about pickles."""
    if not directory.is_dir():
        raise DataError("is no directory.", path=str(directory))
    if (directory / _INDEX).is_file():
        return _indexed(directory)
    if (directory / _SINGLE).is_file():
        return {directory / _SINGLE: None}
    refuse_pickles(sorted(p.name for p in directory.iterdir()), str(directory))
    raise DataError(
        f"has no {_SINGLE} and no {_INDEX}.",
        path=str(directory),
        repair="Point to a directory in Hugging Face's layout.",
    )


def refuse_pickles(names: list[str], where: str) -> None:
    """Raises DataError if one of `names` is a pickle; for places without safetensors."""
    for name in names:
        if name.endswith(_PICKLES):
            raise DataError(
                f"{name} is a pickle, which can run any code when it is read, so Everloop never "
                "opens one.",
                path=where,
                repair="Use the model's safetensors version, or convert it once on a machine that "
                "you can afford to lose: transformers' from_pretrained, then save_pretrained.",
            )


def copy_text_files(source: Path, target: Path) -> None:
    """Copies tokenizer, template and generation settings, those that are there."""
    for name in TEXT_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """JSON as Hugging Face's files have it: two spaces, one newline at the end."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object out of a file; DataError if it is something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"can't be read as JSON: {error}.", path=str(path)) from None
    if not isinstance(value, dict):
        raise DataError("is no JSON object.", path=str(path))
    return value


def _empty(config: ModelConfig) -> Transformer:
    """A model without memory for its weights."""
    with torch.device("meta"), _Unfilled():
        return Transformer(config)


class _Unfilled(TorchFunctionMode):
    """Leaves out the first values of parameters and keeps counting off the meta device: both would
    bring PyTorch's compiler in, which takes a second and 90 MB."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return kwargs["tensor"]
        if func is torch.arange:
            kwargs = {**kwargs, "device": "cpu"}
        return func(*args, **kwargs)


def _indexed(directory: Path) -> dict[Path, list[str] | None]:
    path = directory / _INDEX
    names = read_json(path).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
        raise DataError("weight_map must map tensor names to file names.", path=str(path))
    files: dict[Path, list[str] | None] = {}
    for file in sorted(set(names.values())):
        # The index is a stranger's: it may only name files beside itself.
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise DataError(
                f"names {file!a:.80}, which is no safetensors file here.", path=str(path)
            )
        if not (directory / file).is_file():
            raise DataError(
                f"names {file}, which is missing.", path=str(path), repair="Download it too."
            )
        files[directory / file] = [name for name, where in names.items() if where == file]
    return files


def _read(files: Mapping[Path, list[str] | None]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path, promised in files.items():
        found = load_tensors(path)
        if promised is not None and set(promised) != set(found):
            name = min(set(promised) ^ set(found))
            raise DataError(
                f"and the index disagree about tensor {name!a:.80}.",
                path=str(path),
                repair="Download both again, from the same version.",
            )
        tensors.update(found)
    return tensors


def _check(
    directory: Path, config: ModelConfig, tensors: dict[str, Tensor], expected: dict[str, Tensor]
) -> None:
    """Compares names, shapes and types with what the config asks for; drops what is redundant."""

    def bad(what: str) -> DataError:
        return DataError(
            f"{what}.", path=str(directory), repair="Take config and weights together."
        )

    for name in [n for n in tensors if n.endswith(".rotary_emb.inv_freq")]:
        del tensors[name]  # old Llama files carry this table; it follows from the config
    if config.tie_word_embeddings and _HEAD in tensors:
        if not torch.equal(tensors[_HEAD], tensors.get(_EMBEDDING, torch.empty(0))):
            raise bad(f"config.json ties the embeddings, but {_HEAD} is another matrix")
        del tensors[_HEAD]
    for name, wanted in expected.items():
        if name == _HEAD and config.tie_word_embeddings:
            continue
        if name not in tensors:
            raise bad(f"tensor {name} is missing")
        if tensors[name].shape != wanted.shape:
            found = list(tensors[name].shape)
            raise bad(f"tensor {name} has shape {found}, config.json says {list(wanted.shape)}")
        if tensors[name].dtype not in (*DTYPES.values(), torch.float64):
            raise bad(f"tensor {name} is quantized ({tensors[name].dtype}), which isn't supported")
    for name in tensors:
        if name not in expected:
            raise bad(f"tensor {name!a:.80} has no place in a {config.model_type} model")


def _cast(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or tensor.dtype == dtype:
        return tensor
    cast = tensor.to(dtype)
    if dtype == torch.float16 and (cast.isinf() & tensor.isfinite()).any():
        raise InvalidRequest(f"float16 can't hold {name}. Use dtype bf16.", param="dtype")
    return cast


def is_adapter(name: str) -> bool:
    """Whether a parameter is part of a LoRA adapter, by its name."""
    return ".lora_A." in name or ".lora_B." in name

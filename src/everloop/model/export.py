"""`everloop export`: a registered model as a Hugging Face directory for other programs, compared
with the original before it appears.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from everloop.errors import EverloopError, InvalidRequest
from everloop.model import checkpoint, lora
from everloop.model.atomic import new_directory
from everloop.model.transformer import Transformer
from everloop.model.versions import load_version, text_directory
from everloop.store.names import ModelVersion
from everloop.store.registry import Registry

PROBE_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written: bytes in all files, and the largest difference of a logit between the
    original and the export, both computed in float32 (0 unless the type was narrowed)."""

    bytes: int
    max_logit_difference: float


def export_model(
    version: ModelVersion,
    registry: Registry,
    directory: Path,
    *,
    dtype: str | None = None,
    max_shard_bytes: int = 5 * 10**9,
) -> Exported:
    """Writes `version` to a new `directory`, an adapter merged into its base, with tokenizer,
    template and generation settings. `dtype` is fp32, bf16 or fp16; None keeps the stored one.

    Raises InvalidRequest if `directory` is taken, `dtype` is unknown or fp16 can't hold a weight,
    EverloopError if what was written doesn't compute what the original does.
    """
    if dtype is not None and dtype not in checkpoint.DTYPES:
        raise InvalidRequest(
            f"dtype {dtype!r} is unknown: one of {', '.join(checkpoint.DTYPES)}.", param="dtype"
        )
    wanted = None if dtype is None else checkpoint.DTYPES[dtype]
    config, model = load_version(version, registry, dtype=None)
    with new_directory(directory) as work:
        checkpoint.save(
            work,
            model,
            config,
            tokenizer_dir=text_directory(version, registry),
            dtype=wanted,
            max_shard_bytes=max_shard_bytes,
        )
        _, written = checkpoint.load(work, dtype=None)
        _check(model, written, wanted)
        difference = _difference(model, written)
        size = sum(path.stat().st_size for path in work.iterdir())
    return Exported(bytes=size, max_logit_difference=difference)


def export_adapter(version: ModelVersion, registry: Registry, directory: Path) -> Exported:
    """Writes a LoRA version as PEFT's adapter files alone, for use on the same base elsewhere.

    Raises InvalidRequest if `version` is a full model or `directory` is taken.
    """
    if version.base is None:
        raise InvalidRequest(
            f"{version.id} is a full model, not an adapter: leave --adapter out.", param="adapter"
        )
    _, model = load_version(registry.get(version.base), registry)
    lora.load(version.path, model)
    with new_directory(directory) as work:
        lora.save(work, model, tokenizer_dir=version.path)
        _, again = load_version(registry.get(version.base), registry)
        lora.load(work, again)
        difference = _difference(model, again)
        size = sum(path.stat().st_size for path in work.iterdir())
    return Exported(bytes=size, max_logit_difference=difference)


def _difference(original: Transformer, written: Transformer) -> float:
    """Largest |Δlogit| over PROBE_TOKENS tokens spread over the vocabulary, in float32."""
    config = original.config
    length = min(PROBE_TOKENS, config.max_position_embeddings)
    ids = torch.linspace(0, config.vocab_size - 1, length).long()[None]
    with torch.inference_mode():
        difference = original.float()(ids) - written.float()(ids)
    return float(difference.abs().max())


def _check(original: Transformer, written: Transformer, dtype: torch.dtype | None) -> None:
    """Every weight must be the original's, or its rounding to `dtype`, bit for bit."""
    state = written.state_dict()
    for name, tensor in original.state_dict().items():
        if not torch.equal(tensor if dtype is None else tensor.to(dtype), state[name]):
            raise EverloopError(
                f"The export was read back with another {name}: the disk can't be trusted. "
                "Nothing was kept; check the disk and export again."
            )

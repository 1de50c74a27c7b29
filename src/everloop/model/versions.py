"""The weights behind a registered version: its own, or its base's with the adapter merged in."""

from __future__ import annotations

from pathlib import Path

import torch

from everloop.model import checkpoint, lora
from everloop.model.config import ModelConfig
from everloop.model.transformer import Transformer
from everloop.store.names import ModelVersion
from everloop.store.registry import Registry


def load_version(
    version: ModelVersion, registry: Registry, *, dtype: torch.dtype | None = torch.float32
) -> tuple[ModelConfig, Transformer]:
    """Config and weights of `version`; an adapter is worked into its base.

    Raises NotFound if the base is gone, and what `checkpoint.load` and `lora.load` raise.
    """
    if version.base is None:
        return checkpoint.load(version.path, dtype=dtype)
    config, model = load_version(registry.get(version.base), registry, dtype=dtype)
    lora.load(version.path, model)
    lora.merge(model)
    return config, model


def text_directory(version: ModelVersion, registry: Registry) -> Path:
    """Where the tokenizer and template of `version` lie: an adapter may leave them to its base."""
    if version.base is None or (version.path / "tokenizer.json").is_file():
        return version.path
    return text_directory(registry.get(version.base), registry)

"""A complete small model directory: random weights with a trained tokenizer and our template."""

from __future__ import annotations

from pathlib import Path

import torch

from everloop.model import checkpoint, lora
from everloop.model.config import ModelConfig
from everloop.model.lora import LoraConfig
from everloop.model.train_tokenizer import train_tokenizer
from everloop.model.transformer import Transformer
from tests.model.layouts import LAYOUTS

TEXTS = [
    "The weather is fine today, isn't it? We've walked 12 miles.",
    "今天天气怎么样？今天天气很好，我们去公园散步。",
    "def add(a, b):\n    return a + b\n",
] * 20
VOCABULARY = 320


def make_tokenizer(directory: Path) -> Path:
    train_tokenizer(iter(TEXTS), directory, vocab_size=VOCABULARY, context_length=256)
    return directory


def make_model(
    directory: Path,
    *,
    layout: str = "qwen3-tied-biased",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes config, weights, tokenizer and template; returns `directory`."""
    tokenizer = make_tokenizer(directory.with_name(f".{directory.name}-tokenizer"))
    value = LAYOUTS[layout]().to_dict() | {"architectures": None, "vocab_size": VOCABULARY}
    config = ModelConfig.from_json(value)
    model = Transformer(config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[1] ** -0.5)
    checkpoint.save(directory, model, config, tokenizer_dir=tokenizer, dtype=dtype)
    return directory


def make_adapter(directory: Path, base: Path, *, base_name: str | None = None) -> Path:
    """Writes a random LoRA adapter for `base`; returns `directory`."""
    _, model = checkpoint.load(base)
    lora.attach(model, LoraConfig(rank=2, base=base_name))
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    lora.save(directory, model)
    return directory

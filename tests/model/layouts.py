"""Small random models of every supported layout, made by transformers: the oracle's side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from everloop.model.transformer import Cache, Transformer

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "attn_implementation": "eager",
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
WINDOW = 8  # tokens; the tests' sequences are longer

LAYOUTS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "llama3-rope": lambda: LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "llama-biased-tied": lambda: LlamaConfig(
        **SIZES, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "llama-one-kv-head": lambda: LlamaConfig(**{**SIZES, "num_key_value_heads": 1}),
    "llama-no-groups": lambda: LlamaConfig(**{**SIZES, "num_key_value_heads": None}),
    "mistral-window": lambda: MistralConfig(**SIZES, sliding_window=WINDOW),
    "mistral-no-window": lambda: MistralConfig(**SIZES, sliding_window=None, head_dim=24),
    "qwen2-tied": lambda: Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2-some-windows": lambda: Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=24),
    "qwen3-tied-biased": lambda: Qwen3Config(
        **SIZES, head_dim=16, tie_word_embeddings=True, attention_bias=True
    ),
}


def random_model(layout: str, seed: int = 0) -> PreTrainedModel:
    """fp32, every parameter random: a forgotten bias or norm weight can't hide."""
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        LAYOUTS[layout](), attn_implementation="eager"
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            elif name.endswith("bias"):
                parameter.copy_(0.5 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * 1.5 * parameter.shape[1] ** -0.5)
    return model.float().eval()


def saved(layout: str, directory: Path, **options: Any) -> PreTrainedModel:
    """A random model, saved by transformers into `directory`."""
    model = random_model(layout)
    model.save_pretrained(directory, **options)
    return model


def oracle(directory: Path, **options: Any) -> PreTrainedModel:
    """What transformers loads from `directory`; it must find every weight it wants."""
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager", output_loading_info=True, **options
    )
    assert not any(info.values()), info
    result: PreTrainedModel = model.eval()
    return result


def sample_ids(length: int = 40, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, SIZES["vocab_size"], (batch, length), generator=generator)


def oracle_logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


def our_logits(model: Transformer, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(ids)


def our_cached_logits(model: Transformer, ids: torch.Tensor, steps: list[int]) -> torch.Tensor:
    """Logits of `ids` read in pieces of `steps` tokens through one cache."""
    assert sum(steps) == ids.shape[1]
    cache = Cache()
    with torch.inference_mode():
        return torch.cat([model(piece, cache=cache) for piece in ids.split(steps, 1)], dim=1)


def furthest(left: torch.Tensor, right: torch.Tensor) -> float:
    return (left - right).abs().max().item()

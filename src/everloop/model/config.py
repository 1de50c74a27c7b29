"""A model's shape, read from and written to Hugging Face `config.json`.

Four dense layouts are understood: Llama, Mistral, Qwen2 and Qwen3. They are one architecture
(pre-norm, rotary, gated SiLU, grouped queries) with four switches: attention bias, QK-norm, a
sliding window and the rotary scaling.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from everloop.errors import InvalidRequest
from everloop.model.json_fields import integer, number, token_id, token_ids

ModelType = Literal["llama", "mistral", "qwen2", "qwen3"]

ARCHITECTURES: dict[str, ModelType] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """Llama 3's rotary scaling: low frequencies are divided by `factor`, high ones kept, those
    between interpolated (Llama 3.1 model card; `rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Everything that fixes the tensors' shapes and the forward pass."""

    model_type: ModelType
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    """Context length in tokens."""
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    attention_bias: bool = False
    """Bias on the query, key and value projections."""
    output_bias: bool = False
    """Bias on the attention's output projection too (Llama and Qwen3 with attention_bias)."""
    mlp_bias: bool = False
    qk_norm: bool = False
    sliding_windows: tuple[int | None, ...] = ()
    """Per layer: attend to this many last positions, self included; None: to all. Empty: all."""
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise InvalidRequest(
                f"num_attention_heads={self.num_attention_heads} is no multiple of "
                f"num_key_value_heads={self.num_key_value_heads}.",
                param="num_key_value_heads",
            )
        if self.head_dim % 2:
            raise InvalidRequest(
                f"head_dim={self.head_dim} must be even for rotary embeddings.", param="head_dim"
            )
        if self.sliding_windows and len(self.sliding_windows) != self.num_hidden_layers:
            raise InvalidRequest(
                f"sliding_windows names {len(self.sliding_windows)} layers of "
                f"{self.num_hidden_layers}.",
                param="sliding_windows",
            )

    def window(self, layer: int) -> int | None:
        """The sliding window of `layer`, or None where it attends to everything."""
        return self.sliding_windows[layer] if self.sliding_windows else None

    @property
    def matmul_parameters(self) -> int:
        """Weights that multiply every token: layers and head, without the embedding table."""
        attention = (self.num_attention_heads * 2 + self.num_key_value_heads * 2) * self.head_dim
        per_layer = self.hidden_size * (attention + 3 * self.intermediate_size)
        return self.num_hidden_layers * per_layer + self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """All weights, in elements."""
        norms = self.num_hidden_layers * (2 * self.hidden_size) + self.hidden_size
        if self.qk_norm:
            norms += self.num_hidden_layers * 2 * self.head_dim
        biases = 0
        if self.attention_bias:
            biases += (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim
        if self.output_bias:
            biases += self.hidden_size
        if self.mlp_bias:
            biases += 2 * self.intermediate_size + self.hidden_size
        table = 0 if self.tie_word_embeddings else self.vocab_size * self.hidden_size
        return self.matmul_parameters + table + norms + self.num_hidden_layers * biases

    def flops_per_token(self, context: int) -> int:
        """Training floating-point operations a token (forward and backward): 6 a matmul weight
        and 12·layers·heads·head_dim·context for attention (PaLM, appendix B)."""
        attention = self.num_hidden_layers * self.num_attention_heads * self.head_dim * context
        return 6 * self.matmul_parameters + 12 * attention

    @classmethod
    def load(cls, directory: Path) -> ModelConfig:
        """Reads `directory`/config.json."""
        path = directory / "config.json"
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InvalidRequest(f"{path} is missing: not a model directory.") from None
        except (ValueError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"{path} is not valid JSON: {error}.") from None
        if not isinstance(value, dict):
            raise InvalidRequest(f"{path} is not a JSON object.")
        return cls.from_json(value)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ModelConfig:
        """From a Hugging Face `config.json` object; raises InvalidRequest where a field is
        missing, mistyped or outside what the Transformer computes."""
        model_type = _model_type(value)
        hidden, heads = integer(value, "hidden_size"), integer(value, "num_attention_heads")
        layers = integer(value, "num_hidden_layers", most=10_000)
        activation = value.get("hidden_act", "silu")
        if activation != "silu":
            raise InvalidRequest(
                f"hidden_act={activation!r} isn't supported, only 'silu'.", param="hidden_act"
            )
        # Mistral and Qwen2 have no such switch: transformers ignores the field there.
        bias = {"mistral": False, "qwen2": True}.get(
            model_type, bool(value.get("attention_bias", False))
        )
        kv_heads = {"mistral": 8, "qwen2": 32, "qwen3": 32}.get(model_type, heads)
        if value.get("num_key_value_heads", kv_heads) is None:
            kv_heads = heads
        theta, scaling = _rope(value)
        return cls(
            model_type=model_type,
            vocab_size=integer(value, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=integer(value, "intermediate_size"),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=integer(value, "num_key_value_heads", kv_heads),
            head_dim=integer(value, "head_dim", 128 if model_type == "qwen3" else hidden // heads),
            max_position_embeddings=integer(value, "max_position_embeddings"),
            rms_norm_eps=number(value, "rms_norm_eps", 1e-6),
            rope_theta=theta,
            rope_scaling=scaling,
            attention_bias=bias,
            output_bias=bias and model_type in ("llama", "qwen3"),
            mlp_bias=bool(value.get("mlp_bias", False)) and model_type == "llama",
            qk_norm=model_type == "qwen3",
            sliding_windows=_windows(value, model_type, layers),
            tie_word_embeddings=bool(value.get("tie_word_embeddings", False)),
            bos_token_id=token_id(value, "bos_token_id"),
            eos_token_ids=token_ids(value, "eos_token_id"),
            pad_token_id=token_id(value, "pad_token_id"),
            initializer_range=number(value, "initializer_range", 0.02),
        )

    def to_json(self) -> dict[str, Any]:
        """A `config.json` object that transformers, vLLM and llama.cpp's converter read."""
        names = {v: k for k, v in ARCHITECTURES.items()}
        eos: int | list[int] | None = None
        if self.eos_token_ids:
            eos = self.eos_token_ids[0] if len(self.eos_token_ids) == 1 else [*self.eos_token_ids]
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": self.rope_theta}
        if self.rope_scaling is not None:
            scaling = self.rope_scaling
            rope = {
                "rope_type": "llama3",
                "rope_theta": self.rope_theta,
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_position_embeddings,
            }
        value: dict[str, Any] = {
            "architectures": [names[self.model_type]],
            "model_type": self.model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_parameters": rope,
            "rope_scaling": None if self.rope_scaling is None else rope,
            "attention_bias": self.attention_bias,
            "attention_dropout": 0.0,
            "tie_word_embeddings": self.tie_word_embeddings,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos,
            "pad_token_id": self.pad_token_id,
            "initializer_range": self.initializer_range,
            "use_cache": True,
        }
        if self.model_type == "llama":
            value["mlp_bias"] = self.mlp_bias
        value.update(self._windows_to_json())
        return value

    def _windows_to_json(self) -> dict[str, Any]:
        widths = {w for w in self.sliding_windows if w is not None}
        if self.model_type == "llama":
            return {}
        if self.model_type == "mistral":
            return {"sliding_window": widths.pop() if widths else None}
        kinds = [
            "full_attention" if self.window(i) is None else "sliding_attention"
            for i in range(self.num_hidden_layers)
        ]
        return {
            "use_sliding_window": bool(widths),
            "sliding_window": widths.pop() if widths else None,
            "layer_types": kinds,
        }


def _model_type(value: Mapping[str, Any]) -> ModelType:
    architectures = value.get("architectures") or []
    for name in architectures if isinstance(architectures, list) else []:
        if isinstance(name, str) and name in ARCHITECTURES:
            return ARCHITECTURES[name]
    found = value.get("model_type")
    if not architectures and isinstance(found, str) and found in ARCHITECTURES.values():
        return cast(ModelType, found)
    raise InvalidRequest(
        f"config.json: architecture {architectures or found!r} isn't supported; supported are "
        f"{', '.join(ARCHITECTURES)}.",
        param="architectures",
    )


def _rope(value: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """transformers 5 writes `rope_parameters`; before it, `rope_theta` and `rope_scaling`."""
    scaling = value.get("rope_parameters") or value.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise InvalidRequest(
            f"config.json: rope_scaling is {scaling!r}, an object is needed.", param="rope_scaling"
        )
    theta = number(scaling if scaling.get("rope_theta") else value, "rope_theta", 10_000.0)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise InvalidRequest(
            f"config.json: rope_type={kind!r} isn't supported, only 'default' and 'llama3'.",
            param="rope_scaling",
        )
    return theta, RopeScaling(
        factor=number(scaling, "factor"),
        low_freq_factor=number(scaling, "low_freq_factor"),
        high_freq_factor=number(scaling, "high_freq_factor"),
        original_max_position_embeddings=integer(scaling, "original_max_position_embeddings"),
    )


def _windows(
    value: Mapping[str, Any], model_type: ModelType, layers: int
) -> tuple[int | None, ...]:
    sliding = model_type == "mistral" or bool(value.get("use_sliding_window", False))
    if model_type == "llama" or not sliding or value.get("sliding_window", 0) is None:
        return ()
    width = integer(value, "sliding_window", 4096)
    if model_type == "mistral":
        return (width,) * layers
    kinds = value.get("layer_types")
    if kinds is None:
        full = integer(value, "max_window_layers", 28, least=0)
        return tuple(None if i < full else width for i in range(layers))
    if not isinstance(kinds, list):
        raise InvalidRequest("config.json: layer_types is no list.", param="layer_types")
    return tuple(width if k == "sliding_attention" else None for k in kinds)

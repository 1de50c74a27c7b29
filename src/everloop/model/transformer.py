"""One decoder-only Transformer for the Llama, Mistral, Qwen2 and Qwen3 layouts.

The same module trains, serves (the engine drives its layers over a block cache) and explains.
Parameter names are Hugging Face's, so that a checkpoint is a plain state dict. Shape letters:
B batch, T tokens, S cached and new tokens, H query heads, K key/value heads, D head_dim,
C hidden_size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everloop.model.config import ModelConfig
from everloop.model.rope import apply_rope, inverse_frequencies, rope_tables


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang and Sennrich 2019), computed in float32. Under autocast the
    result is cast here, once for all the linear layers that read it."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        device, dtype = x.device.type, x.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self.eps).to(dtype)


class Attention(nn.Module):
    """Grouped-query attention with optional bias and QK-norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        size, bias = config.hidden_size, config.attention_bias
        self.q_proj = nn.Linear(size, self.heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(size, self.kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(size, self.kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.heads * self.head_dim, size, bias=config.output_bias)
        norm = config.qk_norm
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps) if norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps) if norm else nn.Identity()

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries (..., H, D), rotated keys and values (..., K, D) of `x` (..., C); cos
        and sin are (..., 1, D)."""
        q = self.q_norm(self.q_proj(x).unflatten(-1, (self.heads, self.head_dim)))
        k = self.k_norm(self.k_proj(x).unflatten(-1, (self.kv_heads, self.head_dim)))
        v = self.v_proj(x).unflatten(-1, (self.kv_heads, self.head_dim))
        return apply_rope(q, cos, sin), apply_rope(k, cos, sin), v

    def forward(
        self,
        x_BTC: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q, k, v = self.project(x_BTC, cos, sin)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if past is not None:
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        out_BHTD = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=self.heads != self.kv_heads
        )
        return self.o_proj(out_BHTD.transpose(1, 2).flatten(2)), (k, v)


class MLP(nn.Module):
    """Gated SiLU (SwiGLU, Shazeer 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(size, inner, bias=bias)
        self.up_proj = nn.Linear(size, inner, bias=bias)
        self.down_proj = nn.Linear(inner, size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to the stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        attended, present = self.self_attn(self.input_layernorm(x), cos, sin, mask, past)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), present


@dataclass(slots=True)
class Cache:
    """Keys and values (B, K, S, D) of each layer for plain incremental decoding; the engine has
    its own block cache."""

    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens held."""
        return self.layers[0][0].shape[2] if self.layers else 0


class Decoder(nn.Module):
    """Embedding, blocks and final norm (the `model.` of Hugging Face names)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Transformer(nn.Module):
    """The whole language model: token ids in, logits out."""

    frequencies: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.register_buffer("frequencies", inverse_frequencies(config), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Transformer:
        """Moves and casts weights (`to`, `half`, …); rotary frequencies follow to the device but
        stay float32, or positions would blur."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.frequencies = inverse_frequencies(self.config, self.frequencies.device)
        return self

    def forward(
        self,
        ids_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits (B, T, V).

        `documents_BT` numbers the document each token belongs to: attention never crosses from
        one to another (packing). `positions_BT` defaults to 0, 1, 2, … after the cache.
        """
        return self.head(self.hidden(ids_BT, positions_BT, documents_BT, cache))

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states (..., C)."""
        logits: Tensor = self.lm_head(hidden)
        return logits

    def hidden(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: Cache | None = None,
        exit_layer: int = 0,
    ) -> Tensor:
        """States after the final norm (B, T, C); arguments as in `forward`. With `exit_layer`,
        (2, B, T, C): the states after that many layers, through the same norm, come first."""
        past = 0 if cache is None else cache.length
        length = ids_BT.shape[1]
        if positions_BT is None:
            positions_BT = torch.arange(past, past + length, device=ids_BT.device)[None]
        cos, sin = rope_tables(self.frequencies, positions_BT)
        cos, sin = cos[:, :, None], sin[:, :, None]
        x: Tensor = self.model.embed_tokens(ids_BT)
        masks: dict[int | None, Tensor | None] = {}
        for i, block in enumerate(self.model.layers):
            window = self.config.window(i)
            if window not in masks:
                masks[window] = attention_mask(length, past, window, documents_BT, x.device)
            layer_past = cache.layers[i] if cache is not None and past else None
            x, present = block(x, cos, sin, masks[window], layer_past)
            if cache is not None:
                cache.layers[i : i + 1] = [present]
            if i + 1 == exit_layer:
                early = x
        out: Tensor = self.model.norm(torch.stack((early, x)) if exit_layer else x)
        return out

    def initialize(self, seed: int) -> None:
        """Fresh weights for pretraining: normal with σ = 1/√fan_in, output projections zero so
        that each block starts as the identity (Zhang et al. 2019, Fixup; modded-nanogpt)."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.data.zero_()
            else:
                std = parameter.shape[1] ** -0.5
                if name == "model.embed_tokens.weight" and self.config.tie_word_embeddings:
                    std = self.config.initializer_range
                elif name == "model.embed_tokens.weight":
                    std = 1.0
                elif name == "lm_head.weight":
                    std = 0.001
                fresh = torch.randn(parameter.shape, generator=generator) * std
                parameter.data.copy_(fresh)


def attention_mask(
    length: int,
    past: int,
    window: int | None,
    documents_BT: Tensor | None,
    device: torch.device,
) -> Tensor | None:
    """Boolean (1 or B, 1, T, S), True where a query may look; None for plain causal attention
    without a cache, which has faster kernels."""
    total = past + length
    limited = window is not None and window < total
    if documents_BT is None and not limited and (past == 0 or length == 1):
        if length == 1:
            return torch.ones(1, 1, 1, total, dtype=torch.bool, device=device)
        return None
    queries = torch.arange(past, total, device=device)[:, None]
    keys = torch.arange(total, device=device)[None]
    allowed = keys <= queries
    if window is not None:
        allowed = allowed & (keys > queries - window)
    allowed = allowed[None]
    if documents_BT is not None:
        allowed = allowed & (documents_BT[:, :, None] == documents_BT[:, None, :])
    return allowed[:, None]

"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the half-split form that
Hugging Face checkpoints use, with Llama 3's frequency scaling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from everloop.model.config import ModelConfig, RopeScaling


def inverse_frequencies(config: ModelConfig, device: torch.device | None = None) -> Tensor:
    """Angular step per position of each pair of channels, float32, shape (head_dim/2,)."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device)
    frequencies = 1.0 / config.rope_theta ** (exponents / config.head_dim)
    return frequencies if config.rope_scaling is None else _llama3(frequencies, config.rope_scaling)


def _llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    context = scaling.original_max_position_embeddings
    low_wavelength = context / scaling.low_freq_factor
    high_wavelength = context / scaling.high_freq_factor
    wavelengths = 2 * math.pi / frequencies
    slow = torch.where(wavelengths > low_wavelength, frequencies / scaling.factor, frequencies)
    smooth = (context / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    between = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    is_between = (wavelengths <= low_wavelength) & (wavelengths >= high_wavelength)
    return torch.where(is_between, between, slow)


def rope_tables(frequencies: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin for integer `positions` of any shape (...,): each float32 (..., head_dim)."""
    angles = positions.to(torch.float32)[..., None] * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the last dimension of `x`; cos and sin broadcast against it."""
    low, high = x.chunk(2, dim=-1)
    rotated = torch.cat((-high, low), dim=-1)
    return x * cos.to(x.dtype) + rotated * sin.to(x.dtype)

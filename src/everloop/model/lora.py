"""LoRA (Hu et al. 2021, arXiv 2106.09685): trainable low-rank additions to frozen linear layers,
kept in PEFT's file layout (adapter_config.json, adapter_model.safetensors).

A layer's own weight keeps its name, so a model with adapters still has every base parameter where
a checkpoint expects it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everloop.errors import DataError, InvalidRequest
from everloop.model.atomic import new_directory
from everloop.model.checkpoint import (
    copy_text_files,
    is_adapter,
    read_json,
    refuse_pickles,
    write_json,
)
from everloop.model.checkpoint import load as load_checkpoint
from everloop.model.config import ModelConfig
from everloop.model.safetensors import load_tensors, save_tensors
from everloop.model.transformer import Transformer

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear modules of a block, by the last part of their name."""

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # PEFT's wrapping of a model, part of every tensor's name

# PEFT's fields that change what an adapter computes and that we don't compute.
_UNSUPPORTED = (
    *("alora_invocation_tokens", "alpha_pattern", "arrow_config", "exclude_modules"),
    *("fan_in_fan_out", "layer_replication", "lora_bias", "modules_to_save", "rank_pattern"),
    *("target_parameters", "trainable_token_indices", "use_bdlora", "use_dora", "use_qalora"),
    *("kasa_config", "monteclora_config", "velora_config", "layers_to_transform"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """The shape of an adapter: `scale`·B·A is added to each target, A (rank, in), B (out, rank)."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    """Probability of dropping an input to A, in training."""
    targets: tuple[str, ...] = TARGETS
    rank_stabilized: bool = False
    """Divide by √rank instead of rank (Kalajdzievski 2023, arXiv 2312.03732)."""
    base: str | None = None
    """The model below it, by hub id or path: for whoever loads the adapter elsewhere."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InvalidRequest(f"lora rank={self.rank} must be at least 1.", param="rank")
        if not 0 <= self.dropout < 1:
            raise InvalidRequest(f"lora dropout={self.dropout} must be in [0, 1).", param="dropout")
        unknown = sorted(set(self.targets) - set(TARGETS))
        if unknown or not self.targets:
            raise InvalidRequest(
                f"lora targets {', '.join(unknown) or '(none)'}: choose among "
                f"{', '.join(TARGETS)}.",
                param="targets",
            )

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def to_json(self) -> dict[str, Any]:
        """adapter_config.json as PEFT and vLLM read it."""
        return {
            "base_model_name_or_path": self.base,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "lora_alpha": int(self.alpha) if self.alpha == int(self.alpha) else self.alpha,
            "lora_dropout": self.dropout,
            "modules_to_save": None,
            "peft_type": "LORA",
            "r": self.rank,
            "target_modules": list(self.targets),
            "task_type": "CAUSAL_LM",
            "use_rslora": self.rank_stabilized,
        }


class LoraLinear(nn.Linear):
    """A linear layer with an adapter; `weight` and `bias` are the base layer's own."""

    def __init__(self, layer: nn.Linear, config: LoraConfig) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would allocate the weight again
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.config = config
        self.dropout = nn.Dropout(config.dropout)
        # float32 whatever the base's type: updates of an adapter are too small for bf16.
        low_rank = partial(nn.Linear, bias=False, device=layer.weight.device, dtype=torch.float32)
        self.lora_A = low_rank(self.in_features, config.rank)
        self.lora_B = low_rank(config.rank, self.out_features)

    def forward(self, input: Tensor) -> Tensor:
        low = self.lora_A(self.dropout(input).to(self.lora_A.weight.dtype))
        out: Tensor = F.linear(input, self.weight, self.bias)
        out = out + (self.config.scale * self.lora_B(low)).to(out.dtype)
        return out

    def merged(self) -> nn.Linear:
        """A plain layer that computes the same without dropout, in the base's type."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, "meta")
        delta = self.lora_B.weight.float() @ self.lora_A.weight.float()
        weight = (self.weight.float() + self.config.scale * delta).to(self.weight.dtype)
        layer.weight = nn.Parameter(weight.detach())
        if self.bias is not None:
            layer.bias = nn.Parameter(self.bias.detach())
        return layer


def attach(model: Transformer, config: LoraConfig, *, seed: int = 0) -> None:
    """Puts a fresh adapter on every target of `model` and freezes all else. It starts as the
    identity (B = 0); A is uniform as PEFT has it, drawn from `seed`."""
    names = [n for n in _linears(model) if n.rpartition(".")[2] in config.targets]
    generator = torch.Generator().manual_seed(seed)
    for layer in _wrap(model, config, names):
        bound = 1 / math.sqrt(layer.in_features)
        drawn = torch.rand(layer.lora_A.weight.shape, generator=generator)
        with torch.no_grad():
            layer.lora_A.weight.copy_((2 * drawn - 1) * bound)
            layer.lora_B.weight.zero_()


def save(
    directory: Path,
    model: Transformer,
    *,
    state: Mapping[str, Tensor] | None = None,
    tokenizer_dir: Path | None = None,
) -> None:
    """Writes the adapter on `model` alone to a new directory, all or nothing; equal weights give
    equal bytes. `state` replaces the model's own state dict (gathered from shards, say)."""
    configs = [m.config for m in _linears(model).values() if isinstance(m, LoraLinear)]
    if not configs:
        raise InvalidRequest("The model has no LoRA layers to save.")
    given = model.state_dict() if state is None else state
    adapter = {_PREFIX + n: t for n, t in given.items() if is_adapter(n)}
    with new_directory(directory) as work:
        write_json(work / CONFIG_FILE, configs[0].to_json())
        save_tensors(work / WEIGHTS_FILE, adapter, {"format": "pt"})
        if tokenizer_dir is not None:
            copy_text_files(tokenizer_dir, work)


def load(directory: Path, model: Transformer) -> LoraConfig:
    """Puts the adapter of `directory` on `model` and freezes all else.

    Raises DataError where the files are broken, don't fit `model`, or ask for what isn't LoRA on
    the blocks' linear layers.
    """
    config = read_config(directory)
    state = tensors(directory, model)
    names = [name for name in _linears(model) if f"{name}.lora_A.weight" in state]
    there = {name.rpartition(".")[2] for name in names}
    config = replace(config, targets=tuple(t for t in TARGETS if t in there))
    _wrap(model, config, names)
    model.load_state_dict(state, strict=False)
    return config


def tensors(directory: Path, model: Transformer) -> dict[str, Tensor]:
    """The adapter's weights by their names in the model, float32, checked to fit `model`."""
    path = directory / WEIGHTS_FILE
    if not path.is_file() and directory.is_dir():
        refuse_pickles(sorted(p.name for p in directory.iterdir()), str(directory))
    rank = read_config(directory).rank
    stored = load_tensors(path)
    wanted: dict[str, tuple[int, int]] = {}
    for name, layer in _linears(model).items():
        a, b = (f"{_PREFIX}{name}.lora_{half}.weight" for half in "AB")
        if a in stored or b in stored:
            wanted[a], wanted[b] = (rank, layer.in_features), (layer.out_features, rank)
    for key in sorted(wanted.keys() | stored.keys()):
        found = tuple(stored[key].shape) if key in stored else "missing"
        if wanted.get(key) != found or not stored[key].is_floating_point():
            raise DataError(
                f"tensor {key!a:.120} is {found}, the base model wants "
                f"{wanted.get(key, 'no such tensor')} in floating point.",
                path=str(path),
                repair="Load it on the model that it was trained on.",
            )
    return {key.removeprefix(_PREFIX): tensor.float() for key, tensor in stored.items()}


def read_config(directory: Path) -> LoraConfig:
    """Reads adapter_config.json but for the targets: PEFT may give them as a pattern, and the
    tensors' names say the same. DataError says what it asks for that we don't do."""
    path = directory / CONFIG_FILE
    value = read_json(path)

    def bad(what: str) -> DataError:
        return DataError(f"{what}, which isn't supported.", path=str(path))

    if value.get("peft_type") != "LORA":
        raise bad(f"peft_type is {value.get('peft_type')!r}")
    for field in _UNSUPPORTED:
        if value.get(field):
            raise bad(f"{field} is set")
    if value.get("bias", "none") != "none":
        raise bad(f"bias is {value['bias']!r}")
    rank, alpha, dropout = value.get("r"), value.get("lora_alpha"), value.get("lora_dropout", 0.0)
    if type(rank) is not int or not 0 < rank < 2**16:
        raise bad(f"r is {rank!r}")
    if not isinstance(alpha, int | float) or not abs(alpha) < 1e9:
        raise bad(f"lora_alpha is {alpha!r}")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise bad(f"lora_dropout is {dropout!r}")
    base = value.get("base_model_name_or_path")
    return LoraConfig(
        rank=rank,
        alpha=float(alpha),
        dropout=float(dropout),
        rank_stabilized=bool(value.get("use_rslora", False)),
        base=base if isinstance(base, str) else None,
    )


def load_merged(
    directory: Path, base_dir: Path, *, dtype: torch.dtype | None = torch.float32
) -> tuple[ModelConfig, Transformer]:
    """The base model with the adapter of `directory` worked into its weights."""
    config, model = load_checkpoint(base_dir, dtype=dtype)
    load(directory, model)
    merge(model)
    return config, model


def merge(model: Transformer) -> None:
    """Works every adapter into its base weight: plain layers again, all of them trainable."""
    for name, layer in _linears(model).items():
        if isinstance(layer, LoraLinear):
            model.set_submodule(name, layer.merged())
    model.requires_grad_(True)


def _linears(model: Transformer) -> dict[str, nn.Linear]:
    """The blocks' linear layers, with or without an adapter, by full name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in TARGETS
    }


def _wrap(model: Transformer, config: LoraConfig, names: list[str]) -> list[LoraLinear]:
    linears = _linears(model)
    if any(isinstance(layer, LoraLinear) for layer in linears.values()):
        raise InvalidRequest("The model already has an adapter: merge it first.")
    model.requires_grad_(False)
    wrapped = []
    for name in names:
        layer = LoraLinear(linears[name], config).train(model.training)
        model.set_submodule(name, layer)
        wrapped.append(layer)
    return wrapped

"""What a user may set of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from everloop.train.robust import parse

Kind = Literal["pretrain", "finetune", "lora"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Every field but the last few is derived and printed where it is None."""

    minutes: float | None = None
    """Budget by time: a probe measures the machine and sets the tokens."""
    flops: float | None = None
    """Budget by floating-point operations."""
    size: str | None = None
    """Model size (pretraining), d2 … d20."""
    tokens: int | None = None
    """Budget in tokens; wins over the other three."""
    epochs: float | None = None
    """Budget in passes over the data (tuning)."""
    context_length: int = 1024
    """Of a model made here."""
    sequence_length: int | None = None
    batch_tokens: int | None = None
    micro_tokens: int | None = None
    matrix_lr: float | None = None
    embedding_lr: float | None = None
    head_lr: float | None = None
    scalar_lr: float | None = None
    weight_decay: float | None = None
    warmup_steps: int | None = None
    warmdown: float | None = None
    exit_loss: float | None = None
    """Weight of an earlier layer's loss; 0: the model speaks after its last layer only."""
    seed: int | None = None
    """Of weights and data order; None: 0, or another one than the base has read this data with."""
    balance: float | None = None
    """How far a source's share of the loss follows its tokens instead of its targets, 0…1."""
    robust: str | None = None
    """Loss terms against noise (tuning), as `robust.parse` reads them; kept in canonical form."""
    lora_rank: int = 0
    """0: tune all weights; else adapters of this rank."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    fsdp: bool = False
    probe_seconds: float = 60.0
    checkpoint_minutes: float = 5.0
    validate_steps: int = 0
    """Steps between held-out checks; 0: at the end only."""
    save_dtype: Literal["fp32", "bf16", "fp16"] = "bf16"

    def __post_init__(self) -> None:
        if self.robust is not None:
            object.__setattr__(self, "robust", str(parse(self.robust)))

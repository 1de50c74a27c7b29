"""One dial to a whole training run.

The user gives minutes, floating-point operations or a size; everything else follows and is
printed, and each derived number can be set by hand. Sources: nanochat's scaling fits (parameters
∝ C^.54, learning rate ∝ √batch and ∝ 1/√width), checked on small runs of our own.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from everloop.errors import InvalidRequest
from everloop.model.config import ModelConfig
from everloop.train.robust import parse

HEAD_DIM = 64
SIZES = {"d2": 2, "d4": 4, "d6": 6, "d8": 8, "d10": 10, "d12": 12, "d16": 16, "d20": 20}
"""Depth in layers by name; width is 64 channels a layer, at least 256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every number of a run. Tokens count inputs that a loss or a document gives; rates are peak
    values before the schedule."""

    sequence_length: int
    batch_tokens: int
    """Tokens of one optimizer step, over all processes and micro-batches."""
    micro_rows: int
    """Rows that go through the model at once."""
    tokens: int
    """The whole run's budget."""
    matrix_lr: float
    """Muon, for the matrices inside the blocks."""
    embedding_lr: float
    head_lr: float
    scalar_lr: float
    weight_decay: float
    """On matrices, falling linearly to zero with the run."""
    warmup_steps: int
    warmdown: float
    """Last part of the run over which the rate falls linearly."""
    final_lr: float
    """Fraction of the peak rate at the end."""
    seed: int = 0
    balance: float = 0.0
    """0: every target counts alike; 1: every source counts as much as its tokens (mixture.py)."""
    exit_loss: float = 0.0
    """Weight of the loss of an earlier layer's state, so that tokens may leave there."""
    robust: str = ""
    """Loss terms against noise, as `robust.parse` reads them."""

    def __post_init__(self) -> None:
        for name in ("sequence_length", "batch_tokens", "micro_rows", "tokens"):
            if getattr(self, name) < 1:
                raise InvalidRequest(
                    f"{name}={getattr(self, name)} must be at least 1.", param=name
                )
        rates = ("matrix_lr", "embedding_lr", "head_lr", "scalar_lr")
        for name in (*rates, "weight_decay", "exit_loss"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidRequest(f"{name}={getattr(self, name)} must be 0 or more.", param=name)
        for name in ("warmup_steps", "seed"):
            if getattr(self, name) < 0:
                raise InvalidRequest(f"{name}={getattr(self, name)} must be 0 or more.", param=name)
        if self.batch_tokens % self.sequence_length:
            raise InvalidRequest(
                f"batch_tokens={self.batch_tokens} must be a multiple of "
                f"sequence_length={self.sequence_length}.",
                param="batch_tokens",
            )
        if not 0 <= self.warmdown <= 1:
            raise InvalidRequest(f"warmdown={self.warmdown} must be in 0…1.", param="warmdown")
        if not 0 <= self.balance <= 1:
            raise InvalidRequest(f"balance={self.balance} must be in 0…1.", param="balance")
        if parse(self.robust) and self.exit_loss:
            raise InvalidRequest(
                "--robust and --exit-loss each change the loss in their own way: tune with one, "
                "then with the other.",
                param="robust",
            )

    @property
    def rows(self) -> int:
        """Rows of one optimizer step."""
        return self.batch_tokens // self.sequence_length

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return max(1, self.tokens // self.batch_tokens)

    @property
    def cost(self) -> float:
        """Operations of a step, in those of one without loss terms against noise."""
        return parse(self.robust).cost

    def rate(self, step: int) -> float:
        """Schedule factor for step 0, 1, …: warm up, hold, fall linearly to `final_lr`."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        start = self.steps * (1 - self.warmdown)
        if step < start:
            return warm
        left = (self.steps - step) / max(1.0, self.steps - start)
        return warm * (self.final_lr + (1 - self.final_lr) * left)

    def to_json(self) -> dict[str, Any]:
        """All fields and the derived steps, for run.json."""
        return {**asdict(self), "steps": self.steps}


def size_config(size: str, *, vocab_size: int, context_length: int) -> ModelConfig:
    """The Qwen3-layout configuration of a named size, untied, fresh (no token ids set)."""
    if size not in SIZES:
        raise InvalidRequest(
            f"--size {size!r} is unknown: one of {', '.join(SIZES)}.", param="size"
        )
    depth = SIZES[size]
    width = max(256, HEAD_DIM * depth)
    heads = width // HEAD_DIM
    return ModelConfig(
        model_type="qwen3",
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=round(2.75 * width / 64) * 64,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=HEAD_DIM,
        max_position_embeddings=context_length,
        rope_theta=10_000.0 if context_length <= 4096 else 100_000.0,
        qk_norm=True,
    )


def size_for(flops: float, *, vocab_size: int) -> str:
    """The named size nearest to the optimum N = 110.7M · (C/10^18)^.54 matmul parameters."""
    best = 110.7e6 * (flops / 1e18) ** 0.54

    def distance(size: str) -> float:
        config = size_config(size, vocab_size=vocab_size, context_length=1024)
        return abs(math.log(config.matmul_parameters / best))

    return min(SIZES, key=distance)


def derive(
    config: ModelConfig,
    *,
    tokens: int,
    kind: Literal["pretrain", "finetune", "lora"],
    sequence_length: int | None = None,
    batch_tokens: int | None = None,
    micro_tokens: int = 4096,
    **given: float | int | str | None,
) -> Plan:
    """Fills in what wasn't given. `micro_tokens` bounds the memory of one forward pass."""
    flops = tokens * config.flops_per_token(256)
    length = sequence_length or min(
        config.max_position_embeddings, 256 if flops < 1e16 else 512 if flops < 1e17 else 1024
    )
    if length > config.max_position_embeddings:
        raise InvalidRequest(
            f"--sequence-length {length} exceeds the model's context of "
            f"{config.max_position_embeddings} tokens.",
            param="sequence_length",
        )
    if batch_tokens is None:
        # 2^14 at 1e15 operations, 2^18 at 3e17: the two recipes' points on a log-log line.
        power = 14 + 4 * math.log10(max(flops, 1.0) / 1e15) / math.log10(300)
        if kind != "pretrain":
            power -= 1
        batch_tokens = 2 ** max(10, min(19, round(power)))
        # A run of a few steps learns nothing: keep at least a hundred where the budget allows.
        while batch_tokens > 1024 and tokens // batch_tokens < 100:
            batch_tokens //= 2
        batch_tokens = max(1, batch_tokens // length) * length
    elif sequence_length is None:
        length = min(length, batch_tokens)
    scale = math.sqrt(batch_tokens / 2**19)
    narrow = math.sqrt(768 / config.hidden_size)
    # Tuning starts from a good place: a third of the rates (LoRA's fresh matrices take AdamW's).
    gentle = 1.0 if kind == "pretrain" else 0.3
    derived: dict[str, Any] = {
        "sequence_length": length,
        "batch_tokens": batch_tokens,
        "micro_rows": micro_rows(micro_tokens, batch_tokens, length),
        "tokens": tokens,
        "matrix_lr": 0.04 * scale * gentle,
        "embedding_lr": 0.3 * scale * narrow * gentle,
        "head_lr": 0.008 * scale * narrow * gentle,
        "scalar_lr": 0.02 * scale * gentle if kind != "lora" else 2e-3 * scale / 0.125,
        "weight_decay": 0.1 if kind == "pretrain" else 0.0,
        "warmup_steps": min(40, max(1, tokens // batch_tokens // 20)),
        "warmdown": 0.65,
        "final_lr": 0.05,
    }
    derived.update({k: v for k, v in given.items() if v is not None})
    return Plan(**derived)


def micro_rows(micro_tokens: int, batch_tokens: int, sequence_length: int) -> int:
    """Rows at once for about `micro_tokens` tokens at once."""
    return max(1, min(batch_tokens, micro_tokens) // sequence_length)

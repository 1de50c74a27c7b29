"""Models and runs small enough for a test, and what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from everloop.model.config import ModelConfig
from everloop.model.safetensors import load_tensors
from everloop.train.checkpoint import found
from everloop.train.options import Options
from everloop.train.plan import Plan

VOCABULARY, CONTEXT = 320, 128


def small_config(**changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "model_type": "qwen3",
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": CONTEXT,
        "qk_norm": True,
        "eos_token_ids": (2, 0),
        "pad_token_id": 0,
    }
    return ModelConfig(**{**values, **changes})


def small_plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "sequence_length": 32,
        "batch_tokens": 256,
        "micro_rows": 4,
        "tokens": 2560,
        "matrix_lr": 0.02,
        "embedding_lr": 0.1,
        "head_lr": 0.01,
        "scalar_lr": 0.01,
        "weight_decay": 0.1,
        "warmup_steps": 2,
        "warmdown": 0.65,
        "final_lr": 0.05,
    }
    return Plan(**{**values, **changes})


def small_options(**changes: Any) -> Options:
    """Ten steps in float32."""
    values: dict[str, Any] = {
        "tokens": 2560,
        "sequence_length": 32,
        "batch_tokens": 256,
        "precision": "fp32",
        "save_dtype": "fp32",
    }
    return Options(**{**values, **changes})


def tuning_options(**changes: Any) -> Options:
    """Ten steps on rows that hold most examples."""
    return small_options(**{"tokens": 5120, "sequence_length": 128, "batch_tokens": 512, **changes})


def final(run: Path) -> dict[str, torch.Tensor]:
    """Weights and optimizer state of a run's last checkpoint, adapters or all weights."""
    last = found(run)[-1]
    files = [*sorted((last / "model").glob("*.safetensors")), last / "optimizer.safetensors"]
    return {f"{f.name}/{k}": v for f in files for k, v in load_tensors(f).items()}


def assert_same(one: Path, other: Path) -> None:
    """Two runs ended with the same bits."""
    a, b = final(one), final(other)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def metrics(run: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl, without what depends on the clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    clocked = ("tokens_per_s", "gflops_per_s")
    return [{k: v for k, v in row.items() if k not in clocked} for row in rows]

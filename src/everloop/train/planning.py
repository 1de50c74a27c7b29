"""A run's plan: derived from the user's dial and this machine's speed, kept in RUN/plan.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from everloop.data.files import write_atomic
from everloop.data.pack import PackedDataset
from everloop.errors import InvalidRequest
from everloop.model.config import ModelConfig
from everloop.model.tokenizer import END_OF_TEXT, TURN_END, Tokenizer
from everloop.train.distributed import Processes
from everloop.train.exits import exit_layers
from everloop.train.loader import Loader
from everloop.train.options import Kind, Options
from everloop.train.plan import Plan, derive, micro_rows, size_config, size_for
from everloop.train.probe import matmul_flops_per_s, training_speed
from everloop.train.robust import parse

Say = Callable[[str], None]


def plan_pretraining(
    data: PackedDataset, tokenizer: Tokenizer, options: Options, processes: Processes, say: Say
) -> tuple[ModelConfig, Plan, bool]:
    """A fresh model's configuration, its plan, and whether it trains in bfloat16."""
    vocabulary = -(-tokenizer.vocab_size // 64) * 64
    flops = options.flops
    if options.size is None and flops is None and options.minutes is None:
        raise InvalidRequest(
            "Give one dial: --minutes, --flops or --size (--tokens alone only sets the length).",
            param="minutes",
        )
    if flops is None and options.minutes is not None:
        # About half of the machine's matrix rate is what training gets.
        rate = matmul_flops_per_s(processes.device, torch.bfloat16) * processes.world
        rate = float(processes.broadcast({"rate": rate})["rate"])
        flops = 0.5 * rate * options.minutes * 60
        say(f"Matrix products run at {rate / 1e9:,.0f} GFLOP/s in bfloat16 here.")
    size = options.size or size_for(flops or 0.0, vocab_size=vocabulary)
    config = size_config(size, vocab_size=vocabulary, context_length=options.context_length)
    end, text_end = tokenizer.token_to_id(TURN_END), tokenizer.token_to_id(END_OF_TEXT)
    config = replace(
        config,
        eos_token_ids=tuple(i for i in (end, text_end) if i is not None),
        pad_token_id=text_end,
    )
    budget = options.tokens
    if budget is None and flops is not None:
        budget = int(flops / config.flops_per_token(256))
    if budget is None:
        budget = 8 * config.matmul_parameters
    plan = _derive(config, max(budget, 1), "pretrain", options, processes)
    say(
        f"Model {size}: {config.num_hidden_layers} layers × {config.hidden_size}, vocabulary "
        f"{vocabulary:,}, {config.parameters / 1e6:.2f}M parameters "
        f"({config.matmul_parameters / 1e6:.2f}M in matrix products)."
    )
    plan, bf16 = _measure(config, plan, data, "pretrain", options, processes, say)
    return config, plan, bf16


def plan_tuning(
    config: ModelConfig,
    data: PackedDataset,
    kind: Kind,
    options: Options,
    processes: Processes,
    say: Say,
) -> tuple[Plan, bool]:
    """The plan for training on from a model, and whether in bfloat16."""
    pairs = int((data.lengths - 1).clip(min=0).sum())
    budget = options.tokens
    cost = parse(options.robust or "").cost
    if budget is None and options.flops is not None:
        budget = int(options.flops / config.flops_per_token(256) / cost)
    if budget is None:
        budget = int(pairs * (options.epochs if options.epochs is not None else 3.0))
    plan = _derive(config, max(budget, 1), kind, options, processes)
    return _measure(config, plan, data, kind, options, processes, say)


def _derive(
    config: ModelConfig, tokens: int, kind: Kind, options: Options, processes: Processes
) -> Plan:
    if options.exit_loss and not exit_layers(config):
        raise InvalidRequest(
            "--exit-loss needs a model of at least 2 layers: one to leave after, and one to leave "
            "out.",
            param="exit_loss",
        )
    gpu = processes.device.type == "cuda"
    return derive(
        config,
        tokens=tokens,
        kind=kind,
        sequence_length=options.sequence_length,
        batch_tokens=options.batch_tokens,
        micro_tokens=options.micro_tokens or (65_536 if gpu else 4096),
        matrix_lr=options.matrix_lr,
        embedding_lr=options.embedding_lr,
        head_lr=options.head_lr,
        scalar_lr=options.scalar_lr,
        weight_decay=options.weight_decay,
        warmup_steps=options.warmup_steps,
        warmdown=options.warmdown,
        seed=options.seed,
        balance=options.balance,
        exit_loss=options.exit_loss,
        robust=options.robust,
    )


def _measure(
    config: ModelConfig,
    plan: Plan,
    data: PackedDataset,
    kind: Kind,
    options: Options,
    processes: Processes,
    say: Say,
) -> tuple[Plan, bool]:
    """Chooses the precision and, with --minutes, the token budget, by a measured minute."""
    timed = options.minutes is not None and options.tokens is None
    if options.precision != "auto" and not timed:
        return plan, options.precision == "bf16"
    loader = Loader(
        data, sequence_length=plan.sequence_length, rows=plan.rows, seed=plan.seed,
        cut=kind == "pretrain",
    )  # fmt: skip
    seconds = options.probe_seconds if timed else min(options.probe_seconds, 6.0)
    precisions = (False, True) if options.precision == "auto" else (options.precision == "bf16",)
    speed = training_speed(config, plan, loader, processes, seconds=seconds, precisions=precisions)
    # Processes must agree on what each measured: the first one's word counts.
    agreed = processes.broadcast({"rate": speed.tokens_per_s, "bf16": speed.bf16})
    say(
        f"Measured {speed.tokens_per_s:,.0f} tokens/s ({speed.flops_per_s / 1e9:,.0f} GFLOP/s) in "
        f"{'bfloat16 autocast' if speed.bf16 else 'float32'}."
    )
    if timed and options.minutes is not None:
        budget = int(agreed["rate"] * options.minutes * 60 / plan.cost)
        plan = _derive(config, max(budget, 1), kind, options, processes)
    return plan, bool(agreed["bf16"])


def show(plan: Plan, config: ModelConfig) -> str:
    """The derived numbers as printed before a run."""
    flops = plan.tokens * plan.cost * config.flops_per_token(plan.sequence_length // 2)
    robust = f"\nLoss terms against noise: {plan.robust}." if plan.robust else ""
    exits = ""
    if plan.exit_loss:
        layers = " and ".join(map(str, exit_layers(config)))
        exits = f"\nThe states after {layers} layers learn to speak, weight {plan.exit_loss:g}."
    return (
        f"{plan.tokens:,} tokens in {plan.steps:,} steps of {plan.batch_tokens:,} "
        f"({plan.rows} rows × {plan.sequence_length}, {plan.micro_rows} at once), "
        f"{flops:.2e} FLOPs.\n"
        f"Rates: matrices {plan.matrix_lr:.4g} (Muon), embedding {plan.embedding_lr:.4g}, head "
        f"{plan.head_lr:.4g}, norms {plan.scalar_lr:.4g} (AdamW); decay {plan.weight_decay:g}; "
        f"{plan.warmup_steps} steps up, the last {plan.warmdown:.0%} down to {plan.final_lr:.0%}."
        f"{exits}{robust}"
    )


def write_plan(
    path: Path, config: ModelConfig, plan: Plan, bf16: bool, *, kind: Kind, options: Options,
    data: str,
) -> None:  # fmt: skip
    """Keeps a plan with what it was made for; `data` is the packed data's fingerprint."""
    value = {
        "config": config.to_json(),
        "plan": asdict(plan),
        "bf16": bf16,
        "kind": kind,
        "lora_rank": options.lora_rank,
        "data": data,
        "dial": {k: getattr(options, k) for k in _DIALS},
    }
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


_DIALS = ("minutes", "flops", "epochs")


def read_plan(
    path: Path, *, kind: Kind, options: Options, data: str, say: Say
) -> tuple[ModelConfig, Plan, bool]:
    """A run that was begun keeps its plan: only its length may be set anew, with --tokens.

    Raises InvalidRequest, naming the parameter, where the options ask for something else.
    """
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config, plan = ModelConfig.from_json(value["config"]), Plan(**value["plan"])

    def same(name: str, wanted: Any, begun: Any) -> None:
        if wanted != begun:
            raise InvalidRequest(
                f"{path} was begun with {name}={begun}, now {wanted} is asked for. "
                "Give the same to go on, or choose another --out.",
                param=name,
            )

    same("kind", kind, value.get("kind", kind))
    same("lora_rank", options.lora_rank, value.get("lora_rank", options.lora_rank))
    same("data", data, value.get("data", data))
    given = {k: v for k, v in asdict(options).items() if v is not None}
    for name, begun in asdict(plan).items():
        if name in given and name not in ("tokens", "seed"):
            same(name, given[name], begun)
    for name in _DIALS:
        if name in given and "dial" in value:
            same(name, given[name], value["dial"][name])
    # A default here may also mean that nothing was asked for.
    if options.seed is not None:
        same("seed", options.seed, plan.seed)
    if options.precision != "auto":
        same("precision", options.precision, "bf16" if value["bf16"] else "fp32")
    if options.context_length != Options.__dataclass_fields__["context_length"].default:
        same("context_length", options.context_length, config.max_position_embeddings)
    if options.micro_tokens is not None:
        rows = micro_rows(options.micro_tokens, plan.batch_tokens, plan.sequence_length)
        same("micro_rows", rows, plan.micro_rows)
    if options.size is not None:
        wanted = size_config(options.size, vocab_size=config.vocab_size, context_length=1024)
        for name in ("num_hidden_layers", "hidden_size"):
            same(name, getattr(wanted, name), getattr(config, name))
    if options.tokens is not None and options.tokens != plan.tokens:
        say(f"The run's length changes from {plan.tokens:,} to {options.tokens:,} tokens.")
        plan = replace(plan, tokens=options.tokens)
    return config, plan, bool(value["bf16"])

"""Measuring a machine before planning for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from everloop.model.config import ModelConfig
from everloop.model.transformer import Transformer
from everloop.train import exits, loss
from everloop.train.distributed import Processes
from everloop.train.loader import Loader
from everloop.train.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Training throughput of a run, over all its processes."""

    tokens_per_s: float
    flops_per_s: float
    bf16: bool


def matmul_flops_per_s(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """The machine's matrix-product rate: the best of several square products."""
    size = 4096 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    best, until = float("inf"), time.monotonic() + seconds
    while time.monotonic() < until:
        best = min(best, _timed(lambda: a @ b, device))
    return 2 * size**3 / best


def training_speed(
    config: ModelConfig,
    plan: Plan,
    loader: Loader,
    processes: Processes,
    *,
    seconds: float,
    precisions: tuple[bool, ...] = (False, True),
) -> Speed:
    """Tokens per second of forward, backward and update on a fresh model of this shape and on the
    run's data, over about `seconds`: the faster of `precisions` (False float32, True bfloat16
    autocast)."""
    from everloop.train.optimizer import Optimizer

    model = Transformer(config).to(processes.device)
    model.initialize(plan.seed)
    batch = loader.next()
    loader.cursor = type(loader.cursor)()
    inputs = loss.tensors(batch.rows(0, plan.micro_rows), processes.device)
    tokens = inputs["ids_BT"].numel()

    def run(bf16: bool) -> None:
        with torch.autocast(processes.device.type, dtype=torch.bfloat16, enabled=bf16):
            nats, _ = exits.objective(model, inputs, weight=plan.exit_loss, step=0)
        (nats / tokens).backward()  # type: ignore[no-untyped-call]

    best = Speed(tokens_per_s=0.0, flops_per_s=0.0, bf16=False)
    for bf16 in precisions:
        optimizer = Optimizer(model, plan, bf16=bf16)
        run(bf16)  # warm up: allocations, kernel choice
        until = time.monotonic() + seconds / len(precisions)
        times: list[float] = []
        while time.monotonic() < until or len(times) < 2:
            times.append(_timed(lambda b=bf16: run(b), processes.device))  # type: ignore[misc]
        optimizer.schedule(0)
        update = _timed(optimizer.step, processes.device)
        # The mean, not the best: the budget must hold on this machine as it is, neighbours and all.
        step = sum(times) / len(times) * plan.batch_tokens / tokens / processes.world + update
        speed = plan.batch_tokens / step
        if speed > best.tokens_per_s:
            flops = speed * config.flops_per_token(plan.sequence_length // 2)
            best = Speed(tokens_per_s=speed, flops_per_s=flops, bf16=bf16)
    return best


def _timed(work: Callable[[], object], device: torch.device) -> float:
    at = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - at

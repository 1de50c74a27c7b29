"""Training's share of the machine's bfloat16 matrix rate, at the default model's size.

    python bench/train.py [--seconds 60] [--size d4] [--threads 0]

Forward, backward and update of whole steps on random text, as `everloop pretrain` does them;
operations are those of the model's matrix products and attention, and nothing else counts.
Rates are over processor time (of all threads, divided by their number), as `wall` is over the
clock: on a machine with other work the first still tells what the code costs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from everloop.model.transformer import Transformer
from everloop.train.distributed import Processes
from everloop.train.loader import Loader
from everloop.train.plan import derive, size_config
from everloop.train.provenance import machine
from everloop.train.trainer import Trainer

VOCABULARY, CONTEXT = 6400, 1024


class RandomText:
    """Documents of random tokens, about as long as stories are."""

    def __init__(self, documents: int = 2000) -> None:
        generator = np.random.default_rng(0)
        self.lengths = generator.integers(30, 400, documents).astype(np.int64)
        self.source_of = np.zeros(documents, dtype=np.uint16)
        self._ids = generator.integers(6, VOCABULARY, int(self.lengths.max()) + documents)

    def document(self, index: int) -> tuple[np.ndarray, None]:
        return self._ids[index : index + int(self.lengths[index])], None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--size", default="d4")
    parser.add_argument("--threads", type=int, default=0, help="0: as torch decides")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(json.dumps(measure(options.size, options.seconds, options.precision == "bf16")))


def measure(size: str, seconds: float, bf16: bool) -> dict[str, object]:
    config = size_config(size, vocab_size=VOCABULARY, context_length=CONTEXT)
    plan = derive(config, tokens=10**7, kind="pretrain", sequence_length=256, batch_tokens=8192)
    model = Transformer(config)
    model.initialize(0)
    with tempfile.TemporaryDirectory() as folder:
        loader = Loader(RandomText(), sequence_length=plan.sequence_length, rows=plan.rows, seed=0)
        trainer = Trainer(
            model=model,
            plan=plan,
            loader=loader,
            run=Path(folder),
            tokenizer_dir=Path(folder),
            data_fingerprint="",
            processes=Processes(),
            bf16=bf16,
        )
        flops = plan.batch_tokens * config.flops_per_token(plan.sequence_length // 2)
        peaks, rates, walls = [], [], []
        until = time.monotonic() + seconds
        while time.monotonic() < until or len(rates) < 3:
            peaks.append(matmul_rate())
            trainer.optimizer.schedule(trainer.done)
            at, wall = processor_time(), time.perf_counter()
            trainer.step(loader.next())
            rates.append(flops / (processor_time() - at))
            walls.append(flops / (time.perf_counter() - wall))
            trainer.done += 1
    # The first step allocates.
    peak, rate, wall = (statistics.median(values[1:]) for values in (peaks, rates, walls))
    return {
        "size": size,
        "batch_tokens": plan.batch_tokens,
        "sequence_length": plan.sequence_length,
        "precision": "bf16" if bf16 else "fp32",
        "steps": len(rates),
        "wall_tokens_per_s": round(wall / config.flops_per_token(plan.sequence_length // 2)),
        "wall_gflops_per_s": round(wall / 1e9, 1),
        "training_gflops_per_s": round(rate / 1e9, 1),
        "matmul_gflops_per_s": round(peak / 1e9, 1),
        "ratio": round(rate / peak, 3),
        **{k: v for k, v in machine().items() if k in ("cpu", "threads", "torch")},
    }


def matmul_rate(size: int = 1024) -> float:
    """Operations a second of square bfloat16 products."""
    a, b = (torch.randn(size, size).bfloat16() for _ in range(2))
    a @ b
    at = processor_time()
    for _ in range(20):
        a @ b
    return 20 * 2 * size**3 / (processor_time() - at)


def processor_time() -> float:
    """Seconds that each thread has worked."""
    return time.process_time() / torch.get_num_threads()


if __name__ == "__main__":
    main()

"""What the machine can do at most: bytes read from memory, integer and bfloat16 operations.

    python bench/peers/limits.py     # a JSON object: for each limit, by number of threads

Some ten seconds in a process of its own. Memory: the fastest of many passes over 256 MB a thread.
Operations: the fastest product that PyTorch's libraries compute, over some large shapes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# The threads of the memory test are ours: numpy's own would only get in each other's way.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import torch

ARRAY = 64 * 2**20
"""Float32 numbers a thread: far more than any cache holds."""

SHAPES = ((128, 1024, 1024), (256, 1024, 4096), (512, 1024, 3072), (1024, 2048, 2048))
"""Rows, inputs, outputs."""

SECONDS = 0.7
"""Spent on each number at least."""


def fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of many calls."""
    work()
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def bandwidth(threads: int) -> float:
    """GB/s read from memory."""
    arrays = [np.ones(ARRAY, np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        seconds = fastest(lambda: list(pool.map(lambda a: np.dot(a, a), arrays)))
    return threads * ARRAY * 4 / seconds / 1e9


def operations(
    threads: int, make: Callable[[int, int], Any], multiply: Callable[..., Any]
) -> float:
    """Billions of operations a second."""
    torch.set_num_threads(threads)
    best = 0.0
    for rows, inputs, outputs in SHAPES:
        a, b = make(rows, inputs), make(inputs, outputs)
        best = max(best, 2 * rows * inputs * outputs / fastest(lambda: multiply(a, b)) / 1e9)  # noqa: B023
    return best


def int8(rows: int, columns: int) -> Any:
    return torch.randint(-127, 128, (rows, columns), dtype=torch.int8)


def bf16(rows: int, columns: int) -> Any:
    return torch.randn(rows, columns).bfloat16()


def measure() -> dict[str, dict[str, float]]:
    counts = sorted({1, len(os.sched_getaffinity(0))})
    with torch.inference_mode():
        return {
            "memory GB/s": {str(n): bandwidth(n) for n in counts},
            "int8 GOP/s": {str(n): operations(n, int8, torch._int_mm) for n in counts},
            "bf16 GFLOP/s": {str(n): operations(n, bf16, torch.mm) for n in counts},
        }


if __name__ == "__main__":
    json.dump(measure(), sys.stdout)

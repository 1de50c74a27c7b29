"""Speed of the matrix kernels, each shape at few and at many rows, beside PyTorch's products.

    python bench/matmul.py [--isa avx512vnni avx2 portable] [--shapes 256x768 …] [--rows 1 16 512]
        [--repeat 5] [--json F]

One thread, medians, in processor time, so that other work on the machine disturbs less. Weights lie
where they lie when a model runs: the default model's shapes go round among 5 MB, which stay in a
cache; those of a 0.6B model among 256 MB, which come from memory. GOPS counts a multiplication and
an addition as two; GB/s are the bytes of the weights as stored. Rows are quantized beforehand, for
PyTorch's int8 product too, which yields bare integers.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everloop.engine.native import library, products

MB = 1 << 20
SHAPES = {  # inputs x outputs: bytes that weights go round among
    **dict.fromkeys([(256, 768), (256, 256), (256, 1408), (704, 256), (256, 6400)], 5 * MB),
    **dict.fromkeys([(1024, 4096), (2048, 1024), (1024, 6144), (3072, 1024)], 256 * MB),
    (1024, 151936): 256 * MB,
}
SLICE = 0.02  # seconds of one measurement at least

Run = Callable[[int], object]
Kind = Callable[[int, int, int], tuple[int, Callable[[int], Run]]]
"""From inputs, outputs and bytes to go round among: the bytes of one matrix, and for a number of
rows a function that multiplies n times."""


def ours(isa: str, bits: int) -> Kind:
    def make(inputs: int, outputs: int, room: int) -> tuple[int, Callable[[int], Run]]:
        rng = np.random.default_rng(0)
        one = products.pack(rng.standard_normal((outputs, inputs), dtype=np.float32), bits=bits)
        copies = max(1, round(room / one.data.size))
        data = products.aligned(copies * one.data.size)
        data.reshape(copies, -1)[:] = one.data
        weights = dataclasses.replace(one, data=data, copies=copies)

        def at(rows: int) -> Run:
            x = products.quantize(isa, rng.standard_normal((rows, inputs), dtype=np.float32))
            out = np.empty((rows, outputs), np.float32)
            return lambda n: products.multiply(isa, weights, x, out, times=n)

        return one.data.size, at

    return make


def torchs(dtype: torch.dtype) -> Kind:
    multiply: Callable[..., torch.Tensor] = torch._int_mm if dtype == torch.int8 else torch.mm

    def random(*shape: int) -> torch.Tensor:
        if dtype == torch.int8:
            return torch.randint(-127, 128, shape, dtype=dtype)
        return torch.randn(shape, dtype=dtype)

    def make(inputs: int, outputs: int, room: int) -> tuple[int, Callable[[int], Run]]:
        size = inputs * outputs * dtype.itemsize
        columns = [random(outputs, inputs).t() for _ in range(max(1, round(room / size)))]

        def at(rows: int) -> Run:
            x = random(rows, inputs)

            def run(n: int) -> None:
                for i in range(n):
                    multiply(x, columns[i % len(columns)])

            return run

        return size, at

    return make


def seconds(run: Run, repeat: int) -> float:
    """Median processor time of one product."""
    times = 1
    while True:
        began = time.thread_time()
        run(times)
        if (spent := time.thread_time() - began) >= SLICE:
            break
        times = max(2 * times, int(times * SLICE / max(spent, SLICE / 100)) + 1)
    found = [spent / times]
    for _ in range(repeat - 1):
        began = time.thread_time()
        run(times)
        found.append((time.thread_time() - began) / times)
    return statistics.median(found)


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    kinds = {f"{isa} {bits}-bit": ours(isa, bits) for isa in arguments.isa for bits in (8, 4)}
    kinds |= {"_int_mm": torchs(torch.int8), "float32": torchs(torch.float32)}
    print(f"{'':>22}" + "".join(f"{name:>20}" for name in kinds))
    print(f"{'inputs x outputs  rows':>22}" + f"{'GOPS':>13}{'GB/s':>7}" * len(kinds))
    for inputs, outputs in arguments.shapes:
        lines = {rows: f"{f'{inputs} x {outputs}':>16}{rows:>6}" for rows in arguments.rows}
        for name, make in kinds.items():
            size, at = make(inputs, outputs, SHAPES.get((inputs, outputs), 256 * MB))
            for rows in arguments.rows:
                spent = seconds(at(rows), arguments.repeat)
                gops, rate = 2e-9 * inputs * outputs * rows / spent, 1e-9 * size / spent
                found.append(
                    {"inputs": inputs, "outputs": outputs, "rows": rows, "kernel": name}
                    | {"seconds": spent, "gops": gops, "gb_per_s": rate}
                )
                lines[rows] += f"{gops:>13.1f}{rate:>7.1f}"
            del at
        print("\n".join(lines.values()), flush=True)
    return found


def shape(text: str) -> tuple[int, int]:
    inputs, outputs = text.split("x")
    return int(inputs), int(outputs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    best: Any = library.load()
    parser.add_argument("--isa", nargs="+", default=[best.isa], help="instruction sets")
    parser.add_argument("--shapes", nargs="+", type=shape, default=list(SHAPES), metavar="INxOUT")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 2, 4, 8, 16, 64, 512])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write all values")
    arguments = parser.parse_args()
    rows = measure(arguments)
    if arguments.json:
        about = {"machine": platform.processor(), "torch": torch.__version__}
        arguments.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Tokens per second of the native engine: alone, many streams, reading a prompt.

    python bench/engine.py MODEL_DIR [--threads 1 2] [--streams 1 4 16 32] [--quantization int4]

Measures the synchronous core in this process, so that no other process's time is in it, and then
the engine with its child process, as a server sees it. Without MODEL_DIR: a random model in the
default model's shape. Prints medians; run it on an idle machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from everloop.engine.interface import GenerateRequest, Sampling
from everloop.engine.native import NativeEngine, NativeOptions
from everloop.engine.native.backend import Choice
from everloop.engine.native.core import Core
from everloop.engine.native.jobs import GenerateJob
from everloop.engine.native.loading import load_backend
from everloop.model import checkpoint
from everloop.model.config import ModelConfig
from everloop.model.train_tokenizer import train_tokenizer
from everloop.model.transformer import Transformer

PROMPT, OUTPUT = 32, 128  # tokens of a stream

CHOICES = {
    "greedy": Choice(temperature=0.0),
    "sampled": Choice(temperature=0.8),
    "top_p": Choice(temperature=0.8, top_p=0.9),
}


def random_model(directory: Path) -> Path:
    """The default model's shape with random weights, and a tokenizer of bytes."""
    parts = directory / "tokenizer"
    train_tokenizer(iter(["今天天气怎么样"]), parts, vocab_size=262)
    config = ModelConfig(
        model_type="qwen3",
        vocab_size=6400,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=1024,
        qk_norm=True,
    )
    model = Transformer(config)
    model.initialize(0)
    checkpoint.save(directory / "model", model, config, tokenizer_dir=parts)
    return directory / "model"


def prompt(length: int, vocab: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(vocab) for _ in range(length)]


def write(core: Core, vocab: int, streams: int, choice: Choice) -> float:
    """Tokens per second of `streams` requests that run together, their prompts already read."""
    jobs = [
        GenerateJob(
            i,
            prompt=prompt(PROMPT, vocab, i),
            max_tokens=OUTPUT,
            choice=Choice(temperature=choice.temperature, top_p=choice.top_p),
            seed=i,
            token_bytes=lambda token: b"x",
        )
        for i in range(streams)
    ]
    for job in jobs:
        core.submit(job)
    while any(not job.usage()[1] for job in jobs):
        core.step()
    before = sum(job.usage()[1] for job in jobs)
    began = time.perf_counter()
    while not any(job.done for job in jobs):
        core.step()
    elapsed = time.perf_counter() - began
    tokens = sum(job.usage()[1] for job in jobs) - before
    while core.busy:
        core.step()
    return tokens / elapsed


def read(core: Core, vocab: int, length: int, seed: int) -> float:
    """Prompt tokens per second."""
    job = GenerateJob(
        1,
        prompt=prompt(length, vocab, seed),
        max_tokens=1,
        choice=Choice(temperature=0.0),
        seed=0,
        token_bytes=lambda token: b"x",
    )
    core.submit(job)
    began = time.perf_counter()
    while core.busy:
        core.step()
    return length / (time.perf_counter() - began)


async def served(directory: Path, streams: int, options: NativeOptions) -> tuple[float, float]:
    """Tokens per second of all streams through the child process, and seconds to start it."""
    engine = NativeEngine(directory, "bench", options)
    began = time.perf_counter()
    await engine.start()
    started = time.perf_counter() - began

    async def one(i: int) -> int:
        request = GenerateRequest(
            prompt=tuple(prompt(PROMPT, 256, i)),
            max_tokens=OUTPUT,
            sampling=Sampling(temperature=0.8, seed=i),
            ignore_eos=True,
        )
        usage = [c.usage async for c in await engine.generate(request)][-1]
        assert usage is not None
        return usage.completion_tokens

    await asyncio.gather(*[one(i) for i in range(streams)])
    began = time.perf_counter()
    tokens = sum(await asyncio.gather(*[one(i) for i in range(streams)]))
    speed = tokens / (time.perf_counter() - began)
    await engine.close()
    return speed, started


def measure(directory: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def record(what: str, threads: int, values: list[float]) -> None:
        middle = statistics.median(values)
        rows.append({"what": what, "threads": threads, "median": middle, "all": values})
        print(f"{what:<28} {threads:>2} threads {middle:>10,.0f} tok/s", flush=True)

    for threads in arguments.threads:
        options = NativeOptions(
            quantization=arguments.quantization,
            threads=threads,
            max_running=max(arguments.streams),
            prefill_chunk=arguments.chunk,
        )
        loaded = load_backend(directory, None, options)
        core = Core(loaded.backend, max_running=options.max_running, chunk=options.prefill_chunk)
        vocab = loaded.config.vocab_size
        for streams in arguments.streams:
            for name, choice in CHOICES.items():
                write(core, vocab, streams, choice)  # warm: kernels may be compiled for each size
                speeds = [write(core, vocab, streams, choice) for _ in range(arguments.repeat)]
                record(f"write {streams} {name}", threads, speeds)
        for length in (128, 512, 900):
            if length < loaded.config.max_position_embeddings:
                # Another prompt each time: a cached one isn't read.
                seeds = range(length, length + arguments.repeat + 1)
                speeds = [read(core, vocab, length, seed) for seed in seeds][1:]
                record(f"read {length}", threads, speeds)
        for streams in arguments.streams:
            speed, started = asyncio.run(served(directory, streams, options))
            record(f"served {streams} sampled", threads, [speed])
        print(f"{'start':<28} {threads:>2} threads {started:>10.1f} s ({loaded.backend.name})")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, help="a model directory")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, torch.get_num_threads()])
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 4, 16, 32])
    parser.add_argument("--chunk", type=int, default=512, help="prompt tokens per step at most")
    parser.add_argument("--quantization", default="auto", choices=("auto", "int8", "int4", "none"))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write all values")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = arguments.model or random_model(Path(folder))
        rows = measure(directory, arguments)
    if arguments.json:
        about = {"machine": platform.processor(), "torch": torch.__version__}
        arguments.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

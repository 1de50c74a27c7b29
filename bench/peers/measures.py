"""What is measured: the rows of the table and the points of the curves.

A measure asks its sides the same, with equal weights, prompts and lengths, and gets one number a
side and repeat. Some questions give more than one series: Everloop's time with and without
drafting, llama.cpp's with and without its cache.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .bench import EVERLOOP, LLAMA, OPENVINO, Bench
from .weights import matrix_weights

Numbers = dict[str, float]
"""Values by series. A series starts with its side's name; `limit` and `file` are nobody's."""

Unit = Literal["tok/s", "s", "ms", "perplexity", "MB"]

QUESTIONS, QUESTION, ANSWER = 8, 16, 32
TEXT = 1000
CORRECTED, CHANGES = 300, 3
LONG = 2000
"""Tokens and counts of the goals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One thing to measure."""

    name: str
    title: str
    title_zh: str
    unit: Unit
    asks: Mapping[str, Callable[[Bench, int], Numbers]]
    """By side: measures once; the number is the repeat's, -1 for warming up."""
    seconds: float
    """Of one repeat of all sides on two Zen 4 cores: for the estimate."""
    limit: Callable[[Bench, Mapping[str, float]], float] | None = None
    """The best that the machine allows, from its limits (with all cores)."""
    most: int | None = None
    """Repeats at most: 1 where repeating would give the same, few for the points of a curve."""
    warm: bool = True
    """Whether a first round is thrown away."""

    def repeats(self, asked: int) -> range:
        """Numbers of the repeats, -1 for the one that is thrown away."""
        return range(-1 if self.warm else 0, min(asked, self.most or asked))

    @property
    def lower_is_better(self) -> bool:
        return self.unit != "tok/s"


def reading(
    model: str, length: int, weights: str = "8bit"
) -> dict[str, Callable[[Bench, int], Numbers]]:
    """Prompt tokens a second, from the request to the first token."""

    def ask(side: str) -> Callable[[Bench, int], Numbers]:
        def work(bench: Bench, repeat: int) -> Numbers:
            tokens = bench.prompt(model, length, "read", repeat, length)
            found = bench.ask(side, "read", model, weights, kind="read", prompt=tokens)
            return {side: length / found["seconds"]}

        return work

    return {side: ask(side) for side in (EVERLOOP, LLAMA, OPENVINO)}


def writing(
    model: str,
    streams: int,
    tokens: int,
    weights: str = "8bit",
    sides: Sequence[str] = (EVERLOOP, LLAMA, OPENVINO),
) -> dict[str, Callable[[Bench, int], Numbers]]:
    """Tokens a second of all streams together, their prompts being read."""

    def ask(side: str) -> Callable[[Bench, int], Numbers]:
        def work(bench: Bench, repeat: int) -> Numbers:
            prompts = [bench.prompt(model, 16, "write", repeat, streams, i) for i in range(streams)]
            kind = str(min(streams, 8))  # more streams want no other number of threads
            found = bench.ask(
                side, "write", model, weights, kind=kind, prompts=prompts, tokens=tokens
            )
            return {side: found["tokens"] / found["seconds"]}

        return work

    return {side: ask(side) for side in sides}


def asking(model: str) -> dict[str, Callable[[Bench, int], Numbers]]:
    """Seconds for eight questions on one text."""

    def parts(bench: Bench, repeat: int) -> dict[str, Any]:
        return {
            "text": bench.prompt(model, TEXT, "text", repeat),
            "questions": [
                bench.prompt(model, QUESTION, "question", repeat, i) for i in range(QUESTIONS)
            ],
            "tokens": ANSWER,
        }

    def everloop(bench: Bench, repeat: int) -> Numbers:
        found = bench.ask(EVERLOOP, "questions", model, "8bit", **parts(bench, repeat))
        return {EVERLOOP: found["seconds"]}

    def llama(bench: Bench, repeat: int) -> Numbers:
        work = parts(bench, repeat)
        found = bench.ask(LLAMA, "questions", model, "8bit", kind="read", cache=True, **work)
        numbers = {LLAMA: found["seconds"]}
        if model == "small" or repeat == 0:
            # Without its cache each call is like the others, and takes long with the large model:
            # a few calls tell what eight take, and are its repeats.
            few = {**work, "questions": work["questions"][:5]}
            found = bench.ask(LLAMA, "questions", model, "8bit", kind="read", cache=False, **few)
            numbers[f"{LLAMA} (no cache)"] = QUESTIONS * statistics.median(found["calls"])
        return numbers

    return {EVERLOOP: everloop, LLAMA: llama}


def correcting(model: str) -> dict[str, Callable[[Bench, int], Numbers]]:
    def work(bench: Bench, repeat: int) -> Numbers:
        found = bench.ask(
            EVERLOOP,
            "correct",
            model,
            "8bit",
            prompt=bench.prompt(model, 64, "correct", repeat),
            tokens=CORRECTED,
            changes=CHANGES,
            seed=repeat + 1,
        )
        return _with_plain(found)

    return {EVERLOOP: work}


def undraftable(model: str, tokens: int) -> dict[str, Callable[[Bench, int], Numbers]]:
    def work(bench: Bench, repeat: int) -> Numbers:
        tokens_in = bench.prompt(model, 64, "undraftable", repeat)
        found = bench.ask(
            EVERLOOP, "undraftable", model, "8bit", prompt=tokens_in, tokens=tokens, seed=repeat + 1
        )
        return _with_plain(found)

    return {EVERLOOP: work}


def _with_plain(found: Mapping[str, float]) -> Numbers:
    return {
        EVERLOOP: found["seconds"],
        f"{EVERLOOP} (plain)": found["plain"],
        f"{EVERLOOP} (same tokens)": float(found["same"]),
    }


def interrupting(model: str, pieces: int) -> dict[str, Callable[[Bench, int], Numbers]]:
    """Milliseconds between pieces of 16 streams' text, while a long prompt is read and before."""

    def work(bench: Bench, repeat: int) -> Numbers:
        found = bench.ask(
            EVERLOOP,
            "gap",
            model,
            "8bit",
            prompts=[bench.prompt(model, 16, "gap", repeat, i) for i in range(16)],
            pieces=pieces,
            prompt=bench.prompt(model, LONG, "gap", repeat),
        )
        return {
            EVERLOOP: found["p99"] * 1000,
            f"{EVERLOOP} (median before)": found["before"] * 1000,
        }

    return {EVERLOOP: work}


def perplexing(lang: str) -> dict[str, Callable[[Bench, int], Numbers]]:
    def ask(side: str) -> Callable[[Bench, int], Numbers]:
        def work(bench: Bench, repeat: int) -> Numbers:
            numbers = {}
            for weights, label in (("8bit", ""), ("4bit", " (4 bit)"), ("full", " (unquantized)")):
                found = bench.ask(
                    side, "perplexity", "small", weights, kind="read", windows=bench.windows(lang)
                )
                numbers[side + label] = 2.718281828459045 ** (found["nats"] / found["tokens"])
            return numbers

        return work

    return {side: ask(side) for side in (EVERLOOP, LLAMA)}


def loading(model: str) -> dict[str, Callable[[Bench, int], Numbers]]:
    def ask(side: str) -> Callable[[Bench, int], Numbers]:
        return lambda bench, _: {side: bench.ask(side, "load", model, "8bit")["seconds"]}

    return {side: ask(side) for side in (EVERLOOP, LLAMA)}


def remembering() -> dict[str, Callable[[Bench, int], Numbers]]:
    """Megabytes of the packed file, and resident beyond program, tokenizer and cache."""

    def work(bench: Bench, _: int) -> Numbers:
        bare = str(bench.file(EVERLOOP, "bare", "8bit"))
        found = bench.ask(EVERLOOP, "memory", "0.6b", "8bit", bare=bare)
        return {
            EVERLOOP: found["alone"] / 1e6,
            f"{EVERLOOP} (two engines)": found["together"] / 1e6,
            f"{EVERLOOP} (with the program)": found["process"] / 1e6,
            "file": found["file"] / 1e6,
        }

    return {EVERLOOP: work}


# ---- limits ----


def reading_limit(bench: Bench, limits: Mapping[str, float]) -> float:
    """Two operations a weight and token; the head is only needed for the last token."""
    layers, _ = matrix_weights(bench.weights["0.6b"].config)
    return limits["int8 GOP/s"] * 1e9 / (2 * layers)


def writing_limit(streams: int, bits: int) -> Callable[[Bench, Mapping[str, float]], float]:
    """Every step reads all weights once, or computes them for all streams, whichever is longer."""

    def limit(bench: Bench, limits: Mapping[str, float]) -> float:
        weights = sum(matrix_weights(bench.weights["0.6b"].config))
        memory = weights * bits / 8 / (limits["memory GB/s"] * 1e9)
        arithmetic = streams * 2 * weights / (limits["int8 GOP/s"] * 1e9)
        return streams / max(memory, arithmetic)

    return limit


# ---- the table ----

ROWS = (
    Measure(
        name="read-0.6b",
        title="0.6B shape, 8 bit: read 512 tokens",
        title_zh="0.6B 形状，8 位：读 512 个词元",
        unit="tok/s",
        asks=reading("0.6b", 512),
        seconds=5.8,
        limit=reading_limit,
    ),
    Measure(
        name="write-0.6b",
        title="0.6B shape, 8 bit: write alone",
        title_zh="0.6B 形状，8 位：单路写",
        unit="tok/s",
        asks=writing("0.6b", 1, 40),
        seconds=4.8,
        limit=writing_limit(1, 8),
    ),
    Measure(
        name="write-4bit-0.6b",
        title="0.6B shape, 4 bit: write alone",
        title_zh="0.6B 形状，4 位：单路写",
        unit="tok/s",
        asks=writing("0.6b", 1, 40, "4bit", (EVERLOOP, LLAMA)),
        seconds=1.8,
        limit=writing_limit(1, 4),
    ),
    Measure(
        name="streams-0.6b",
        title="0.6B shape, 8 bit: 16 streams in all",
        title_zh="0.6B 形状，8 位：16 路合计",
        unit="tok/s",
        asks=writing("0.6b", 16, 16),
        seconds=8.0,
        limit=writing_limit(16, 8),
    ),
    Measure(
        name="read-small",
        title="Default model, 8 bit: read 512 tokens",
        title_zh="默认模型，8 位：读 512 个词元",
        unit="tok/s",
        asks=reading("small", 512),
        seconds=0.5,
    ),
    Measure(
        name="write-small",
        title="Default model, 8 bit: write alone",
        title_zh="默认模型，8 位：单路写",
        unit="tok/s",
        asks=writing("small", 1, 192),
        seconds=0.7,
    ),
    Measure(
        name="streams-small",
        title="Default model, 8 bit: 32 streams in all",
        title_zh="默认模型，8 位：32 路合计",
        unit="tok/s",
        asks=writing("small", 32, 64),
        seconds=2.5,
    ),
    Measure(
        name="questions-0.6b",
        title="0.6B shape: 8 questions on one 1,000-token text",
        title_zh="0.6B 形状：就一篇 1,000 词元的文本提 8 个问题",
        unit="s",
        asks=asking("0.6b"),
        seconds=23.5,
        warm=False,
    ),
    Measure(
        name="questions-small",
        title="Default model: 8 questions on one 1,000-token text",
        title_zh="默认模型：就一篇 1,000 词元的文本提 8 个问题",
        unit="s",
        asks=asking("small"),
        seconds=3.0,
    ),
    Measure(
        name="correct-0.6b",
        title="0.6B shape: correct a 300-token text with 3 changes",
        title_zh="0.6B 形状：改正 300 词元文本中的 3 处",
        unit="s",
        asks=correcting("0.6b"),
        seconds=9.5,
        warm=False,
    ),
    Measure(
        name="correct-small",
        title="Default model: correct a 300-token text with 3 changes",
        title_zh="默认模型：改正 300 词元文本中的 3 处",
        unit="s",
        asks=correcting("small"),
        seconds=0.4,
    ),
    Measure(
        name="undraftable-0.6b",
        title="0.6B shape: write a text that can't be drafted",
        title_zh="0.6B 形状：写无法起草的文本",
        unit="s",
        asks=undraftable("0.6b", 64),
        seconds=3.0,
        warm=False,
    ),
    Measure(
        name="undraftable-small",
        title="Default model: write a text that can't be drafted",
        title_zh="默认模型：写无法起草的文本",
        unit="s",
        asks=undraftable("small", 384),
        seconds=0.5,
    ),
    Measure(
        name="gap-0.6b",
        title="0.6B shape: p99 gap of 16 streams while 2,000 tokens are read",
        title_zh="0.6B 形状：读入 2,000 词元期间 16 路的间隔 p99",
        unit="ms",
        asks=interrupting("0.6b", 24),
        seconds=5.0,
    ),
    Measure(
        name="gap-small",
        title="Default model: p99 gap of 16 streams while 2,000 tokens are read",
        title_zh="默认模型：读入 2,000 词元期间 16 路的间隔 p99",
        unit="ms",
        asks=interrupting("small", 24),
        seconds=0.7,
    ),
    Measure(
        name="perplexity-en",
        title="Default model: perplexity, English",
        title_zh="默认模型：困惑度，英文",
        unit="perplexity",
        asks=perplexing("en"),
        seconds=25.0,
        most=1,
        warm=False,
    ),
    Measure(
        name="perplexity-zh",
        title="Default model: perplexity, Chinese",
        title_zh="默认模型：困惑度，中文",
        unit="perplexity",
        asks=perplexing("zh"),
        seconds=25.0,
        most=1,
        warm=False,
    ),
    Measure(
        name="memory-0.6b",
        title="0.6B shape, 8 bit: weights in memory",
        title_zh="0.6B 形状，8 位：内存中的权重",
        unit="MB",
        asks=remembering(),
        seconds=15.0,
        most=1,
        warm=False,
    ),
    Measure(
        name="load-small",
        title="Default model: load",
        title_zh="默认模型：加载",
        unit="s",
        asks=loading("small"),
        seconds=1.2,
    ),
    Measure(
        name="load-0.6b",
        title="0.6B shape: load",
        title_zh="0.6B 形状：加载",
        unit="s",
        asks=loading("0.6b"),
        seconds=4.2,
    ),
)

# ---- the curves ----

STREAMS = (1, 2, 4, 8, 16, 32, 64)
PROMPTS = (128, 256, 512, 1024, 2048, 4096)


def curves() -> tuple[Measure, ...]:
    """Growth with the number of streams and the length of the prompt; fewer points for peers on
    the large model, where they take long."""
    made = []
    for model, name, name_zh in (
        ("small", "Default model", "默认模型"),
        ("0.6b", "0.6B shape", "0.6B 形状"),
    ):
        few = model == "0.6b"
        for n in STREAMS:
            sides = (EVERLOOP, LLAMA) if not few or n in (1, 4, 16, 64) else (EVERLOOP,)
            tokens = 12 if few else 64
            made.append(
                Measure(
                    name=f"growth-streams-{model}@{n}",
                    title=f"{name}: {n} streams",
                    title_zh=f"{name_zh}：{n} 路",
                    unit="tok/s",
                    asks=writing(model, n, tokens, sides=sides),
                    seconds=(0.6 + n * (0.28 if len(sides) > 1 else 0.06))
                    if few
                    else 0.1 + n * 0.04,
                    most=1 if few else 3,
                    warm=False,  # the table's rows warmed everything up
                )
            )
        for n in PROMPTS:
            asks = reading(model, n)
            if few:
                sides = {128: asks, 512: asks, 2048: (EVERLOOP, LLAMA)}.get(n, (EVERLOOP,))
                asks = {side: asks[side] for side in sides}
            made.append(
                Measure(
                    name=f"growth-prompt-{model}@{n}",
                    title=f"{name}: prompt of {n} tokens",
                    title_zh=f"{name_zh}：{n} 词元的提示",
                    unit="tok/s",
                    asks=asks,
                    seconds=n / (95 if len(asks) > 1 else 500) if few else n / 1350,
                    most=1 if few else 3,
                    warm=False,  # the table's rows warmed everything up
                )
            )
    return tuple(made)

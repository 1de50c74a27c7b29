"""Everloop's side: the native engine as its server sees it, its child process included.

Every time is taken from the pieces of the answer as they arrive, prompts are never asked twice
(so that no prefix cache helps where none should), and the engine chooses its threads itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from side import Skip, serve
from words import FIRST_WORD

from everloop.engine.interface import GenerateRequest, Sampling, ScoreRequest, Usage
from everloop.engine.native import NativeEngine, NativeOptions
from everloop.model.tokenizer import Tokenizer

T = TypeVar("T")

QUANTIZATION = {"8bit": "int8", "4bit": "int4", "full": "none"}
"""What NativeOptions calls the weights."""

SIZES = {"max_running": 64, "kv_tokens": 8192}
"""Room for 64 streams and the longest prompt; memory beyond is not taken."""

ENDLESS = 2000
"""Tokens of a stream that is ended from outside."""

PATIENCE = 300.0
"""Seconds after which an answer no longer comes."""

KEPT = 3
"""Engines that stay for the next question; an older one gives its memory back."""

loop = asyncio.new_event_loop()
engines: dict[tuple[str, str, int, bool], NativeEngine] = {}


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs on the loop, which is never idle: the engine's watchdog lives there."""
    return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, PATIENCE), loop).result()


def options(weights: str, threads: int, **chosen: Any) -> NativeOptions:
    """Raises Skip where this engine has no such option."""
    known = {field.name for field in dataclasses.fields(NativeOptions)}
    wanted: dict[str, Any] = {**SIZES, "threads": threads, **chosen}
    if "quantization" in known:
        wanted["quantization"] = QUANTIZATION[weights]
    elif weights == "4bit":
        raise Skip("the engine has no 4-bit weights")
    if "cache_dir" in known:
        wanted["cache_dir"] = os.environ.get("EVERLOOP_BENCH_PACKED")
    if "drafting" in wanted and "drafting" not in known:
        raise Skip("the engine doesn't draft")
    return NativeOptions(**wanted)


async def engine(model: str, weights: str, threads: int, *, drafting: bool = True) -> NativeEngine:
    """A running engine, kept for the next question."""
    key = (model, weights, threads, drafting)
    own = engines.pop(key, None)
    if own is None:
        chosen = {} if drafting else {"drafting": False}
        own = NativeEngine(Path(model), "bench", options(weights, threads, **chosen))
        while len(engines) >= KEPT:
            await engines.pop(next(iter(engines))).close()
        await own.start()
    engines[key] = own  # now the youngest
    return own


@dataclasses.dataclass(slots=True)
class Arrival:
    """When the pieces of a stream's text came."""

    times: list[float] = dataclasses.field(default_factory=list)
    texts: list[str] = dataclasses.field(default_factory=list)
    usage: Usage | None = None

    @property
    def first(self) -> float:
        return self.times[0]

    @property
    def last(self) -> float:
        return self.times[-1]

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def tokens_between(self, began: float, ended: float, tokenizer: Tokenizer) -> float:
        """Tokens that came after `began`, up to `ended`. An answer tells only how many it has in
        all; this tokenizer finds each in the text, but for the odd mark that is never shown."""
        counts = [len(tokenizer.encode(text)) for text in self.texts]
        between = sum(n for t, n in zip(self.times, counts, strict=True) if began < t <= ended)
        assert self.usage is not None
        return between * self.usage.completion_tokens / max(sum(counts), 1)


async def stream(
    own: NativeEngine,
    prompt: Sequence[int],
    tokens: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    prediction: str | None = None,
    arrival: Arrival | None = None,
) -> Arrival:
    """One answer of exactly `tokens` tokens; `arrival` is filled as they come."""
    request = GenerateRequest(
        prompt=tuple(prompt),
        max_tokens=tokens,
        sampling=Sampling(temperature=temperature, seed=seed),
        ignore_eos=True,
        prediction=prediction,
    )
    arrival = Arrival() if arrival is None else arrival
    # Tokens that come together are one piece: nobody can read one before the other.
    async for group in (await own.generate(request)).groups():
        text = "".join(chunk.text for chunk in group)
        if text or group[-1].usage is not None:
            arrival.times.append(time.perf_counter())
            arrival.texts.append(text)
            arrival.usage = group[-1].usage
    return arrival


@cache
def tokenizer_of(model: str) -> Tokenizer:
    return Tokenizer.load(Path(model))


# ---- what all sides do ----


def read(model: str, weights: str, threads: int, prompt: list[int]) -> dict[str, Any]:
    async def work() -> float:
        own = await engine(model, weights, threads)
        began = time.perf_counter()
        return (await stream(own, prompt, 1)).last - began

    return {"seconds": run(work())}


def write(
    model: str, weights: str, threads: int, prompts: list[list[int]], tokens: int
) -> dict[str, Any]:
    """From the moment that every stream has its first token to the first stream's end: all streams
    run together between the two."""
    more = tokens + (8 if len(prompts) > 1 else 1)

    async def work() -> list[Arrival]:
        # What random weights write repeats itself: drafts would be right as they never are in use.
        own = await engine(model, weights, threads, drafting=False)
        return await asyncio.gather(*(stream(own, p, more) for p in prompts))

    for _ in range(5):
        found = run(work())
        began, ended = max(a.first for a in found), min(a.last for a in found)
        count = sum(a.tokens_between(began, ended, tokenizer_of(model)) for a in found)
        if count > tokens * len(prompts) * 0.7:
            return {"seconds": ended - began, "tokens": count}
        # Quick streams were nearly done before the last one came: let all run for longer.
        more *= 2
    raise RuntimeError(f"{len(prompts)} streams of {more} tokens never ran together")


def perplexity(model: str, weights: str, threads: int, windows: list[list[int]]) -> dict[str, Any]:
    async def work() -> float:
        own, nats = await engine(model, weights, threads), 0.0
        for window in windows:
            request = ScoreRequest(prompt=(window[0],), continuations=(tuple(window[1:]),))
            nats -= (await own.score(request))[0].total
        return nats

    return {"nats": run(work()), "tokens": sum(len(w) - 1 for w in windows)}


def questions(
    model: str,
    weights: str,
    threads: int,
    text: list[int],
    questions: list[list[int]],
    tokens: int,
) -> dict[str, Any]:
    """All questions at once; sharing what they have in common is the engine's business."""

    async def work() -> float:
        own = await engine(model, weights, threads)
        began = time.perf_counter()
        found = await asyncio.gather(*(stream(own, [*text, *q], tokens) for q in questions))
        return max(a.last for a in found) - began

    return {"seconds": run(work())}


def load(model: str, weights: str, threads: int) -> dict[str, Any]:
    """Seconds from nothing to an engine that answers, packed files being there already."""

    async def work() -> float:
        own = NativeEngine(Path(model), "bench", options(weights, threads))
        began = time.perf_counter()
        await own.start()
        seconds = time.perf_counter() - began
        await own.close()
        return seconds

    return {"seconds": run(work())}


# ---- what only Everloop is asked ----


def correct(
    model: str, weights: str, threads: int, prompt: list[int], tokens: int, changes: int, seed: int
) -> dict[str, Any]:
    """Writes a text plainly, then with the same text as its prediction, but for some words."""

    async def work() -> dict[str, Any]:
        own = await engine(model, weights, threads)
        plainly = own
        with contextlib.suppress(Skip):
            plainly = await engine(model, weights, threads, drafting=False)
        for each in {own, plainly}:
            await stream(each, prompt, 1)  # both find the prompt as the other does
        began = time.perf_counter()
        plain = await stream(plainly, prompt, tokens, temperature=1.0, seed=seed)
        seconds = plain.last - began
        expected = tokenizer_of(model).encode(plain.text)
        for i in range(changes):
            at = (2 * i + 1) * len(expected) // (2 * changes)
            expected[at] += 1 if expected[at] < 2 * FIRST_WORD else -1
        text = tokenizer_of(model).decode(expected)
        began = time.perf_counter()
        drafted = await stream(own, prompt, tokens, temperature=1.0, seed=seed, prediction=text)
        usage = drafted.usage
        assert usage is not None
        if not usage.accepted_prediction_tokens + usage.rejected_prediction_tokens:
            raise Skip("the engine makes no use of predictions")
        return {
            "plain": seconds,
            "seconds": drafted.last - began,
            "same": drafted.text == plain.text,
            "accepted": usage.accepted_prediction_tokens,
            "rejected": usage.rejected_prediction_tokens,
        }

    return run(work())


def undraftable(
    model: str, weights: str, threads: int, prompt: list[int], tokens: int, seed: int
) -> dict[str, Any]:
    """The same random text by an engine that may not draft and by one that may."""

    async def one(drafting: bool) -> tuple[float, str]:
        own = await engine(model, weights, threads, drafting=drafting)
        await stream(own, prompt, 1)
        began = time.perf_counter()
        found = await stream(own, prompt, tokens, temperature=1.0, seed=seed)
        return found.last - began, found.text

    async def work() -> dict[str, Any]:
        # Who comes first changes: the second finds the machine warmer.
        found = {drafting: await one(drafting) for drafting in (seed % 2 == 0, seed % 2 == 1)}
        (plain, expected), (seconds, text) = found[False], found[True]
        return {"plain": plain, "seconds": seconds, "same": text == expected}

    return run(work())


def gap(
    model: str, weights: str, threads: int, prompts: list[list[int]], pieces: int, prompt: list[int]
) -> dict[str, Any]:
    """Seconds between pieces of running streams: the median of `pieces` pieces before a long prompt
    arrives, median and 99th percentile while it is read."""

    async def work() -> dict[str, Any]:
        own = await engine(model, weights, threads)
        arrivals = [Arrival() for _ in prompts]
        async with running(own, prompts, arrivals) as check:
            while min(len(a.times) for a in arrivals) < 2:
                await check()
            ready = time.perf_counter()
            while min(sum(t > ready for t in a.times) for a in arrivals) < pieces:
                await check()
            came = time.perf_counter()
            done = (await stream(own, prompt, 1)).last
            await asyncio.sleep(0.02)
        before = intervals(arrivals, ready, came)
        during = intervals(arrivals, came, done)
        return {
            "before": quantile(before, 0.5),
            "median": quantile(during, 0.5),
            "p99": quantile(during, 0.99),
            "prompt": done - came,
        }

    for attempt in range(3):  # on a busy machine a tiny model's streams may end unheard
        try:
            return run(work())
        except Ended:
            if attempt == 2:
                raise
    raise AssertionError


class Ended(Exception):
    """A stream wasn't heard for so long that it came to its end."""


@contextlib.asynccontextmanager
async def running(
    own: NativeEngine, prompts: list[list[int]], arrivals: list[Arrival]
) -> AsyncIterator[Callable[[], Coroutine[Any, Any, None]]]:
    """Streams that go on until the block ends. What it gives waits a moment, and raises if one has
    ended by itself."""
    tasks = [
        asyncio.create_task(stream(own, p, ENDLESS, arrival=a))
        for p, a in zip(prompts, arrivals, strict=True)
    ]

    async def check() -> None:
        for task in tasks:
            if task.done():
                task.result()
                raise Ended(f"a stream ended after {ENDLESS} tokens, before it was measured")
        await asyncio.sleep(0.002)

    try:
        yield check
        await check()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def intervals(arrivals: list[Arrival], began: float, ended: float) -> list[float]:
    """Seconds between neighbouring pieces of each stream, of those intervals that touch the time
    from `began` to `ended`."""
    return [
        after - before
        for a in arrivals
        for before, after in itertools.pairwise(a.times)
        if after > began and before < ended
    ]


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def memory(model: str, weights: str, threads: int, bare: str) -> dict[str, Any]:
    """Bytes that the model takes beyond a worker of the `bare` model, which is nearly all program
    and tokenizer: alone, and in two engines together; and those of the packed file that is mapped.
    The key-value cache is left out: the second engine's is twice as large, which tells its size."""

    async def worker(folder: str, kv_tokens: int) -> tuple[NativeEngine, int]:
        chosen = {"kv_tokens": kv_tokens, "max_running": 4}
        own = NativeEngine(Path(folder), "bench", options(weights, threads, **chosen))
        before = children()
        await own.start()
        (pid,) = children() - before
        await stream(own, range(300, 320), 8)
        return own, pid

    async def work() -> dict[str, Any]:
        await close()  # engines that share the file would take their part of its pages
        base, base_pid = await worker(bare, 512)
        program = resident(base_pid)
        await base.close()
        first, first_pid = await worker(model, 512)
        process, file = resident(first_pid)["Rss"], packed(first_pid)
        alone = process - program["Rss"]
        second, second_pid = await worker(model, 1024)
        cache = max(resident(second_pid)["Rss"] - process, 0)
        shared = sum(resident(pid)["Pss"] for pid in (first_pid, second_pid))
        await first.close()
        await second.close()
        together = shared - 2 * program["Anonymous"] - 3 * cache
        return {"alone": alone - cache, "together": together, "file": file, "process": process}

    return run(work())


def children() -> set[int]:
    """Processes started by this one."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def resident(pid: int) -> dict[str, int]:
    """Bytes by kind, from Linux's own sum."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def packed(pid: int) -> int | None:
    """Size of the largest file that is mapped but no library: the packed weights."""
    files = {line.split()[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()}
    sizes = [
        Path(f).stat().st_size
        for f in files
        if f.startswith("/") and ".so" not in f and Path(f).is_file()
    ]
    return max(sizes, default=None)


async def close() -> None:
    while engines:
        await engines.popitem()[1].close()


if __name__ == "__main__":
    threading.Thread(target=loop.run_forever, daemon=True).start()
    serve(
        {
            "read": read,
            "write": write,
            "perplexity": perplexity,
            "questions": questions,
            "load": load,
            "correct": correct,
            "undraftable": undraftable,
            "gap": gap,
            "memory": memory,
        }
    )
    run(close())

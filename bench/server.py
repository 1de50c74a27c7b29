"""What the HTTP server costs beside the engine: time per request, /health under load, memory.

    python bench/server.py                # an engine that only waits, then the embedded model
    python bench/server.py --model DIR    # the native engine with a model of yours

The load generator is a process of its own on the same machine, with kept connections, and speaks
HTTP by hand so that it costs little. Overhead is what the client waited less what the engine took
(its queue included), which the server tells in `x-everloop-engine-ms`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import everloop
from everloop.engine.interface import (
    Chunk,
    Embedding,
    Engine,
    EngineStatus,
    GenerateRequest,
    Generation,
    ModelInfo,
    Prompt,
    Score,
    ScoreRequest,
    Usage,
)

KEY = "sk-bench"
QUESTION = "今天天气怎么样？"


# ---- an engine that only waits ----


class WaitingGeneration(Generation):
    """`max_tokens` tokens, one every 10 ms."""

    prompt_tokens = 1

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        for _ in range(self.tokens):
            await asyncio.sleep(0.01)
            yield Chunk(text="天")
        yield Chunk(finish_reason="length", usage=await self.cancel())

    async def cancel(self) -> Usage:
        return Usage(prompt_tokens=1, completion_tokens=self.tokens)


class WaitingEngine(Engine):
    info = ModelInfo(id="waiting", context_length=4096, vocab_size=None)

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def generate(self, request: GenerateRequest) -> Generation:
        return WaitingGeneration(request.max_tokens or 16)

    async def score(self, request: ScoreRequest) -> list[Score]:
        raise NotImplementedError

    async def embed(self, texts: Sequence[str], *, tenant: str = "") -> list[Embedding]:
        raise NotImplementedError

    async def count_tokens(self, prompt: Prompt) -> int:
        return 1

    def status(self) -> EngineStatus:
        return EngineStatus(ready=True)


class WaitingPool:
    engine = WaitingEngine()

    def __init__(self, *_: object) -> None: ...

    async def get(self, name: str) -> Engine:
        return self.engine

    def loaded(self) -> Mapping[str, Engine]:
        return {"waiting": self.engine}

    async def close(self) -> None: ...


def serve(home: str, port: int, model: str | None) -> None:
    """Runs in the server's process."""
    from everloop.server.run import serve as run
    from everloop.settings import load
    from everloop.store.database import Database
    from everloop.store.registry import Registry

    name = "bench" if model else "everloop-small"
    settings = load({"home": home, "port": port, "api_key": KEY, "model": name})
    if model:
        with closing(Database(settings.home)) as db:
            Registry(db).register("bench", Path(model), "bench/server.py")
    run(settings, engines=None if model else WaitingPool)


# ---- the client ----


@dataclass
class Samples:
    """Milliseconds."""

    values: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        ordered = sorted(self.values)
        if not ordered:
            return "none"
        at = {q: ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in (0.5, 0.9, 0.99)}
        return (
            f"p50 {at[0.5]:.2f}  p90 {at[0.9]:.2f}  p99 {at[0.99]:.2f}  "
            f"max {ordered[-1]:.2f} ms  (n={len(ordered)})"
        )


class Connection:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def ask(self, path: str, body: Mapping[str, Any] | None = None) -> tuple[bytes, bytes]:
        """(head, body) of the answer."""
        if not hasattr(self, "writer"):
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = json.dumps(body).encode() if body else b""
        method = b"POST" if body else b"GET"
        head = (
            b"%s %s HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n"
        )
        self.writer.write(head % (method, path.encode(), KEY.encode(), len(data)) + b"\r\n" + data)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        lower = answer.lower()
        if b"content-length:" in lower:
            size = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
            return lower, await self.reader.readexactly(size)
        parts = []
        while size := int(await self.reader.readline(), 16):
            parts.append(await self.reader.readexactly(size))
            await self.reader.readline()
        await self.reader.readline()
        return lower, b"".join(parts)


def chat(tokens: int, stream: bool) -> dict[str, Any]:
    return {
        "model": "default",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": stream,
    }


async def load_for(
    port: int, *, concurrency: int, seconds: float, tokens: int, stream: bool
) -> dict[str, Samples | int | float]:
    """Keeps `concurrency` requests running. The first second is warm-up."""
    total, overhead = Samples(), Samples()
    answered, warm, began = 0, 0, time.perf_counter()

    draw = random.Random(0)

    async def worker() -> None:
        nonlocal answered, warm
        connection = Connection(port)
        await asyncio.sleep(draw.random())
        while (now := time.perf_counter()) - began < seconds:
            # Lengths vary, so that the clients don't march in step.
            length = draw.randint(tokens // 2, tokens + tokens // 2)
            head, body = await connection.ask("/v1/chat/completions", chat(length, stream))
            took = (time.perf_counter() - now) * 1000
            assert b" 200 " in head[:16], (head, body)
            answered += 1
            if now - began > 1:
                warm += 1
                total.values.append(took)
                if b"x-everloop-engine-ms:" in head:
                    spent = float(head.split(b"x-everloop-engine-ms:")[1].split(b"\r\n")[0])
                    overhead.values.append(took - spent)

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return {
        "total": total,
        "overhead": overhead,
        "rps": warm / max(seconds - 1, 1e-9),
        "answered": answered,
    }


async def probe(port: int, seconds: float) -> Samples:
    """/health, fifty times a second."""
    connection, samples, began = Connection(port), Samples(), time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        await connection.ask("/health")
        samples.values.append((time.perf_counter() - now) * 1000)
        await asyncio.sleep(0.02)
    return samples


def in_process(function: Any, *arguments: Any, **options: Any) -> Any:
    """Runs an async function in a fresh process, so that it doesn't share this loop."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_run, (function, arguments, options))


def _run(function: Any, arguments: Any, options: Any) -> Any:
    return asyncio.run(function(*arguments, **options))


def memory(pid: int) -> list[tuple[str, float]]:
    """(role, resident MB) of the server's processes."""
    found = []
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for role, each in [("http", str(pid)), *(("engine", child) for child in children)]:
        status = Path(f"/proc/{each}/status").read_text()
        kilobytes = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        found.append((role, int(kilobytes.split()[1]) / 1024))
    return found


def cpu(pid: int) -> float:
    """Seconds of processor time of the HTTP process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    async def ready() -> bool:
        try:
            return b" 200 " in (await Connection(port).ask("/ready"))[0][:16]
        except OSError:
            return False

    while not asyncio.run(ready()):
        assert process.poll() is None, "the server did not start"
        time.sleep(0.1)


def measure(chosen: argparse.Namespace, model: str | None) -> None:
    """Starts a server, loads it, prints what it took."""
    home = tempfile.mkdtemp(prefix="everloop-bench-")
    command = [sys.executable, __file__, "--serve", home, "--port", str(chosen.port)]
    command += ["--model", model] if model else []
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_ready(chosen.port, process)
        took = time.perf_counter() - began
        print(f"engine: {model or 'waits 10 ms a token'}; ready after {took:.2f} s in a new home")
        load = {"concurrency": chosen.concurrency, "tokens": chosen.tokens}
        for stream in (False, True):
            spent = cpu(process.pid)
            found = in_process(load_for, chosen.port, seconds=chosen.seconds, stream=stream, **load)
            spent = (cpu(process.pid) - spent) / found["answered"]
            print(
                f"{'stream' if stream else 'whole '} ×{chosen.concurrency}: "
                f"{found['rps']:.1f} requests/s, {found['rps'] * chosen.tokens:.0f} tokens/s"
            )
            print(f"  time      {found['total']}")
            print(f"  processor {spent * 1000:.2f} ms a request in the HTTP process")
            if not stream:
                print(f"  overhead  {found['overhead']}")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            options = {**load, "seconds": chosen.seconds + 2, "stream": True}
            loading = pool.apply_async(_run, (load_for, (chosen.port,), options))
            time.sleep(1)
            print(f"/health under that load: {asyncio.run(probe(chosen.port, chosen.seconds))}")
            resident = memory(process.pid)
            loading.get()
        parts = ", ".join(f"{role} {size:.0f} MB" for role, size in resident)
        print(f"resident: {parts}; together {sum(size for _, size in resident):.0f} MB\n")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        shutil.rmtree(home)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", help="folder of a model; without it the engine only waits")
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--tokens", type=int, default=20, help="tokens of an average answer")
    parser.add_argument("--port", type=int, default=8499)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve(chosen.serve, chosen.port, chosen.model)
        return
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
    )
    embedded = Path(everloop.__file__).parent / "models" / "everloop-small"
    for model in [chosen.model] if chosen.model else [None, str(embedded)]:
        if model is None or Path(model, "config.json").is_file():
            measure(chosen, model)


if __name__ == "__main__":
    main()

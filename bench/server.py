"""What the HTTP server costs beside the engine: its processor time, time per request, /health
under load, memory.

    python bench/server.py                # an engine that only waits, then the embedded model
    python bench/server.py --model DIR    # the native engine with a model of yours

The load generator is a process of its own on the same machine, with kept connections. Overhead is
what the client waited less what the engine took (its queue included), which the server tells in
`x-everloop-engine-ms`; it grows with everything else that runs on the machine. The HTTP process's
processor time does so hardly, and tells cost from noise.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import everloop
from serving.client import KEY, Load, load_for, probe, ready

STEP_MS, BURST = 10, 1  # of the waiting engine, like a model's
FAST_STEP_MS, FAST_BURST, FAST_STREAMS = 16, 8, 32  # 500 tokens a second for each stream
SHORT, LONG = 8, 400  # tokens of streams whose difference is the cost of a token


def serve(home: str, port: int, model: str | None) -> None:
    """Runs in the server's process."""
    from everloop.engine.native import process
    from everloop.server.run import serve as run
    from everloop.settings import load
    from everloop.store.database import Database
    from everloop.store.registry import Registry

    name = "bench" if model else "everloop-small"
    settings = load({"home": home, "port": port, "api_key": KEY, "model": name})
    if model:
        with closing(Database(settings.home)) as db:
            Registry(db).register("bench", Path(model), "bench/server.py")
    else:
        process.WORKER = "serving.worker"
    run(settings)


class Server:
    """A server in a process of its own, with a home that goes with it."""

    def __init__(self, port: int, model: str | None, step_ms: int = 0, burst: int = 0) -> None:
        self.port = port
        self.home = tempfile.mkdtemp(prefix="everloop-bench-")
        command = [sys.executable, __file__, "--serve", self.home, "--port", str(port)]
        command += ["--model", model] if model else []
        pace = {"EVERLOOP_BENCH_STEP_MS": str(step_ms), "EVERLOOP_BENCH_BURST": str(burst)}
        began = time.perf_counter()
        self.process = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, env={**os.environ, **pace}
        )
        while not asyncio.run(ready(port)):
            assert self.process.poll() is None, "the server did not start"
            time.sleep(0.1)
        self.started = time.perf_counter() - began

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        shutil.rmtree(self.home)

    def load(self, **options: Any) -> tuple[Load, float]:
        """What a load did, and the seconds of processor time that it cost the HTTP process."""
        before = processor(self.process.pid)
        load = in_process(load_for, self.port, **options)
        return load, processor(self.process.pid) - before


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


def processor(pid: int) -> float:
    """Seconds that the process's threads have run."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def requests(server: Server, chosen: argparse.Namespace) -> None:
    """Whole answers and streams, as many at once as chosen."""
    for stream in (False, True):
        options = {"concurrency": chosen.concurrency, "tokens": chosen.tokens, "stream": stream}
        load, spent = server.load(seconds=chosen.seconds, **options)
        rate = load.answered / load.seconds
        print(
            f"{'stream' if stream else 'whole '} ×{chosen.concurrency}: "
            f"{rate:.1f} requests/s, {load.tokens / load.seconds:.0f} tokens/s"
        )
        print(f"  time      {load.total}")
        print(f"  processor {spent / load.answered * 1e6:.0f} µs a request in the HTTP process")
        if not stream:
            print(f"  overhead  {load.overhead}")


def tokens(server: Server, chosen: argparse.Namespace) -> None:
    """The processor time of a streamed request and of each token in it: from a load of short
    streams and one of long ones."""
    options = {"concurrency": FAST_STREAMS, "seconds": chosen.seconds, "stream": True}
    short, spent_short = server.load(tokens=SHORT, **options)
    long, spent_long = server.load(tokens=LONG, **options)
    # spent = requests · a + tokens · b, twice
    both = short.answered * long.tokens - long.answered * short.tokens
    a = (spent_short * long.tokens - spent_long * short.tokens) / both
    b = (short.answered * spent_long - long.answered * spent_short) / both
    print(
        f"stream ×{FAST_STREAMS}: {long.tokens / long.seconds:.0f} tokens/s, "
        f"{spent_long / long.seconds:.0%} of a core in the HTTP process"
    )
    print(f"  processor {a * 1e6:.0f} µs a request and {b * 1e6:.1f} µs a token")


def health(server: Server, chosen: argparse.Namespace) -> None:
    """How soon /health answers while streams run, and what is resident then."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        options = {"concurrency": chosen.concurrency, "tokens": chosen.tokens, "stream": True}
        options["seconds"] = chosen.seconds + 2
        loading = pool.apply_async(_run, (load_for, (server.port,), options))
        time.sleep(1)
        print(f"/health under that load: {asyncio.run(probe(server.port, chosen.seconds))}")
        resident = memory(server.process.pid)
        loading.get()
    parts = ", ".join(f"{role} {size:.0f} MB" for role, size in resident)
    print(f"resident: {parts}; together {sum(size for _, size in resident):.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", help="folder of a model; without it the engine only waits")
    parser.add_argument("--concurrency", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--tokens", type=int, default=20, help="tokens of an average answer")
    parser.add_argument("--port", type=int, default=8499)
    parser.add_argument("--waiting", action="store_true", help="only the engine that waits")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve(chosen.serve, chosen.port, chosen.model)
        return
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
    )
    if not chosen.model:
        print(f"\nengine: waits {STEP_MS} ms a token")
        with Server(chosen.port, None, STEP_MS, BURST) as server:
            requests(server, chosen)
            health(server, chosen)
        print(f"\nengine: waits {FAST_STEP_MS} ms, then gives {FAST_BURST} tokens")
        with Server(chosen.port, None, FAST_STEP_MS, FAST_BURST) as server:
            tokens(server, chosen)
    embedded = Path(everloop.__file__).parent / "models" / "everloop-small"
    model = Path(chosen.model or embedded)
    if chosen.waiting or not (model / "config.json").is_file():
        return
    with Server(chosen.port, str(model)) as server:
        print(f"\nengine: {model}; ready after {server.started:.2f} s in a new home")
        requests(server, chosen)
        health(server, chosen)


if __name__ == "__main__":
    main()

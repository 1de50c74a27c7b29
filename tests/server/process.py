"""A real server in a process of its own: `scripted` runs one on the scripted engine, `native` one
on the native engine with a model's folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).parents[2]
KEY = "sk-test-0123456789abcdefghijklmnop"


@dataclass
class Running:
    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> httpx2.Client:
        headers = {"authorization": f"Bearer {KEY}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30, **options)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)

    def logged(self, **fields: object) -> list[dict[str, Any]]:
        """Log lines that have these fields."""
        lines = []
        for line in self.log.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if all(entry.get(name) == value for name, value in fields.items()):
                lines.append(entry)
        return lines

    def wait_logged(self, **fields: object) -> dict[str, Any]:
        """The first such line, waited for."""
        for _ in range(500):
            found = self.logged(**fields)
            if found:
                return found[0]
            time.sleep(0.02)
        raise AssertionError(f"not logged: {fields}\n{self.log.read_text()}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment() -> dict[str, str]:
    """This process's, without settings of its own."""
    mine = {k: v for k, v in os.environ.items() if not k.startswith(("EVERLOOP_", "OPENAI_"))}
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), mine.get("PYTHONPATH", "")])
    return {**mine, "PYTHONPATH": path, "PYTHONWARNINGS": "default", "PYTHONASYNCIODEBUG": ""}


@contextlib.contextmanager
def started(command: list[str], port: int, folder: Path, **env: str) -> Iterator[Running]:
    """Runs a command until its /ready answers; ends it afterwards."""
    log = folder / f"server-{port}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**environment(), **env}, cwd=folder, text=True
        )
    running = Running(process, port, log)
    try:
        wait_ready(running)
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_ready(running: Running, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{running.url}/ready").status_code == 200:
                return
        if running.process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{running.log.read_text()}")


@contextlib.contextmanager
def scripted(folder: Path, **settings: object) -> Iterator[Running]:
    """A server on the scripted engine, with these settings."""
    with _serving(folder, None, settings) as running:
        yield running


@contextlib.contextmanager
def native(folder: Path, model: Path, **settings: object) -> Iterator[Running]:
    """A server on the native engine, with this model and these settings."""
    with _serving(folder, model, {"threads": 1, **settings}) as running:
        yield running


@contextlib.contextmanager
def _serving(folder: Path, model: Path | None, settings: Mapping[str, object]) -> Iterator[Running]:
    port = free_port()
    chosen = {
        "home": str(folder / "home"),
        "port": port,
        "api_key": KEY,
        "model": "tiny",
        **settings,
    }
    command = [sys.executable, "-m", "tests.server.process", json.dumps(chosen)]
    if model is not None:
        command.append(str(model))
    with started(command, port, folder) as running:
        yield running


def main() -> None:
    """`python -m tests.server.process SETTINGS_AS_JSON [MODEL_FOLDER]`."""
    from everloop.server.run import serve
    from everloop.settings import load
    from everloop.store.database import Database
    from everloop.store.registry import Registry
    from tests.server.scripted import ScriptedPool

    settings = load(json.loads(sys.argv[1]))
    model = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    registry = Registry(Database(settings.home), default_model=settings.model)
    if registry.resolve("tiny") is None:
        folder = settings.home / "tiny"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        registry.register("tiny", model or folder, "a test")
        registry.register("org/other", folder, "a test")
    serve(settings, engines=None if model else ScriptedPool)


if __name__ == "__main__":
    main()

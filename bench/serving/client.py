"""A load of chats from kept connections. Speaks HTTP by hand, so that it costs little."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KEY = "sk-bench"
QUESTION = "今天天气怎么样？"


@dataclass
class Samples:
    """Milliseconds."""

    values: list[float] = field(default_factory=list)

    def at(self, share: float) -> float:
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def __str__(self) -> str:
        if not self.values:
            return "none"
        return (
            f"p50 {self.at(0.5):.2f}  p90 {self.at(0.9):.2f}  p99 {self.at(0.99):.2f}  "
            f"max {max(self.values):.2f} ms  (n={len(self.values)})"
        )


@dataclass
class Load:
    """What a load did. Times of the first second are left out: it is warm-up."""

    seconds: float
    total: Samples = field(default_factory=Samples)
    overhead: Samples = field(default_factory=Samples)  # waited less what the engine took
    answered: int = 0
    tokens: int = 0
    events: int = 0  # server-sent ones


class Connection(asyncio.Protocol):
    """One kept connection, made when first used."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if not self.answer.done():
            self.answer.set_exception(ConnectionError("the server hung up"))

    async def ask(self, path: str, body: Mapping[str, Any] | None = None) -> tuple[bytes, bytes]:
        """(head in lower case, body) of the answer; a chunked body as it came."""
        loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[tuple[bytes, bytes]] = loop.create_future()
        self.parts, self.head, self.missing = [b""], b"", -1
        if self.transport is None:
            await loop.create_connection(lambda: self, "127.0.0.1", self.port)
        assert self.transport is not None
        data = json.dumps(body).encode() if body else b""
        self.transport.write(
            b"%s %s HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n"
            b"\r\n%s" % (b"POST" if body else b"GET", path.encode(), KEY.encode(), len(data), data)
        )
        return await self.answer

    def data_received(self, data: bytes) -> None:
        if not self.head:
            data = self.parts.pop() + data
            head, found, rest = data.partition(b"\r\n\r\n")
            if not found:
                self.parts.append(data)
                return
            self.head = head.lower() + b"\r\n"
            if b"content-length:" in self.head:
                self.missing = int(self.header(b"content-length"))
            self.parts, data = [b""], rest
        self.parts.append(data)
        if self.missing >= 0:
            self.missing -= len(data)
            done = self.missing == 0
        else:  # events are never ended by CR LF, so only the last chunk looks like this
            done = (self.parts[-2][-5:] + data).endswith(b"0\r\n\r\n")
        if done:
            self.answer.set_result((self.head, b"".join(self.parts)))

    def header(self, name: bytes) -> bytes:
        return self.head.split(name + b":")[1].split(b"\r\n")[0]


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
) -> Load:
    """Keeps `concurrency` requests running."""
    done, draw, began = Load(seconds), random.Random(0), time.perf_counter()

    async def worker() -> None:
        connection = Connection(port)
        await asyncio.sleep(draw.random())
        while (now := time.perf_counter()) - began < seconds:
            # Lengths vary, so that the clients don't march in step.
            length = draw.randint(tokens // 2, tokens + tokens // 2)
            head, body = await connection.ask("/v1/chat/completions", chat(length, stream))
            took = (time.perf_counter() - now) * 1000
            assert b" 200 " in head[:16], (head, body)
            done.answered += 1
            done.tokens += length
            if stream:
                done.events += body.count(b"data: ")
            if now - began > 1:
                done.total.values.append(took)
                if b"x-everloop-engine-ms:" in head:
                    spent = float(connection.header(b"x-everloop-engine-ms"))
                    done.overhead.values.append(took - spent)

    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return done


async def probe(port: int, seconds: float) -> Samples:
    """/health, fifty times a second."""
    connection, samples, began = Connection(port), Samples(), time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        await connection.ask("/health")
        samples.values.append((time.perf_counter() - now) * 1000)
        await asyncio.sleep(0.02)
    return samples


async def ready(port: int) -> bool:
    """Whether the server answers questions already."""
    try:
        return b" 200 " in (await Connection(port).ask("/ready"))[0][:16]
    except OSError:
        return False

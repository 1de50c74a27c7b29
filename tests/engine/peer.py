"""A real HTTP server on 127.0.0.1 that answers as a test says, well or badly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass
class Request:
    """What arrived, and where the answer goes."""

    method: str
    path: str
    headers: dict[str, str]
    body: Json
    writer: asyncio.StreamWriter

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: int, kind: str, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", "connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.raw(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def json(self, value: object, status: int = 200, **headers: str) -> None:
        await self.head(status, "application/json", **headers)
        await self.raw(json.dumps(value).encode())

    async def error(self, status: int, message: str = "no", **fields: object) -> None:
        headers = {k: str(fields.pop(k)) for k in ("retry_after", "x_should_retry") if k in fields}
        error = {"message": message, "type": "x", "param": None, "code": None, **fields}
        await self.json({"error": error}, status, **headers)

    async def events(self, *events: object, done: bool = True) -> None:
        await self.head(200, "text/event-stream; charset=utf-8")
        for event in events:
            await self.event(event)
        if done:
            await self.raw(b"data: [DONE]\n\n")

    async def event(self, event: object) -> None:
        await self.raw(f"data: {json.dumps(event)}\n\n".encode())


Handler = Callable[[Request], Awaitable[None]]


@dataclass
class Peer:
    """Answers each request with the next handler of its path; the last one stays."""

    handlers: dict[str, list[Handler]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    gone: int = 0  # connections that the client closed while a handler waited for it
    url: str = ""

    def on(self, path: str, *handlers: Handler) -> None:
        self.handlers[path] = list(handlers)

    async def __aenter__(self) -> Peer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(self, *details: object) -> None:
        self._server.close()

    async def wait_for_goodbye(self, reader: asyncio.StreamReader) -> None:
        await reader.read()
        self.gone += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        watch: asyncio.Task[None] | None = None
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            method, path, _ = first.split(" ")
            headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
            data = await reader.readexactly(int(headers.get("content-length", 0)))
            request = Request(method, path, headers, json.loads(data or b"{}"), writer)
            self.requests.append(request)
            handlers = self.handlers.get(path)
            if not handlers:
                await request.error(404, "no such path")
                return
            watch = asyncio.create_task(self.wait_for_goodbye(reader))
            await (handlers.pop(0) if len(handlers) > 1 else handlers[0])(request)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            if watch is not None:
                watch.cancel()
            writer.close()

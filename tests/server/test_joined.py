"""What is written at once goes out in one piece, in order, and none of it is lost at the end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from everloop.server.joined import Joined
from tests.server.process import Running


class Wire(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.log: list[Any] = []

    def write(self, data: Any) -> None:
        self.log.append(bytes(data))

    def close(self) -> None:
        self.log.append("closed")

    def abort(self) -> None:
        self.log.append("aborted")


def test_one_turn_is_one_piece() -> None:
    async def main() -> None:
        wire = Wire()
        joined = Joined(wire, asyncio.get_running_loop())
        joined.write(b"head")
        joined.write(b"")
        joined.write(bytearray(b"body"))
        assert wire.log == []
        await asyncio.sleep(0)
        assert wire.log == [b"headbody"]
        joined.write(b"more")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert wire.log == [b"headbody", b"more"]

    asyncio.run(main())


@pytest.mark.parametrize(("end", "log"), [("close", [b"last", "closed"]), ("abort", ["aborted"])])
def test_closing_sends_the_rest_first_and_aborting_does_not(end: str, log: list[Any]) -> None:
    async def main() -> None:
        wire = Wire()
        joined = Joined(wire, asyncio.get_running_loop())
        joined.write(b"last")
        getattr(joined, end)()
        await asyncio.sleep(0)
        assert wire.log == log

    asyncio.run(main())


def test_an_answers_head_and_body_come_in_one_piece(server: Running) -> None:
    with server.connect() as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert raw.recv(65536).endswith(b'\r\n\r\n{"status":"ok"}')

"""Streams and waits against a client that is only a pair of functions, for what takes too long to
see on a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect
from starlette.types import Message, Scope

from everloop.errors import EngineUnavailable, InvalidRequest
from everloop.server import stream
from everloop.server.context import start_record
from everloop.server.stream import EventStream, TextEvents, sse, until_gone


class Client:
    """Collects what it is sent; leaves when told to."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        self.scope: Scope = {"type": "http"}
        self.record = start_record(self.scope)

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def read(self, events: AsyncGenerator[bytes, None]) -> bytes:
        await EventStream(events)(self.scope, self.receive, self.send)
        return b"".join(message.get("body", b"") for message in self.sent)


def test_an_error_before_the_first_event_is_raised() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        raise InvalidRequest("no", param="x")
        yield b""

    async def main() -> None:
        client = Client()
        with pytest.raises(InvalidRequest):
            await client.read(events())
        assert client.sent == []

    asyncio.run(main())


def test_a_later_error_is_an_event_and_the_end() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield sse({"a": "一\n二"})
        raise EngineUnavailable("gone")

    async def main() -> None:
        client = Client()
        text = await client.read(events())
        assert (
            text
            == (
                'data: {"a":"一\\n二"}\n\n'
                'data: {"error":{"message":"gone","type":"server_error","param":null,'
                '"code":"engine_unavailable"}}\n\n'
            ).encode()
        )
        assert client.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
        assert client.record.code == "engine_unavailable"

    asyncio.run(main())


def test_a_defect_in_mid_stream_says_nothing_of_itself() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield sse({})
        raise RuntimeError("secret")

    async def main() -> None:
        text = await Client().read(events())
        assert b'"code":"internal_error"' in text
        assert b"secret" not in text

    asyncio.run(main())


def test_a_silent_stream_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PING_SECONDS", 0.01)

    async def events() -> AsyncGenerator[bytes, None]:
        yield sse({})
        await asyncio.sleep(0.2)
        yield stream.DONE

    async def main() -> None:
        text = await Client().read(events())
        assert text.startswith(b"data: {}\n\n: ping\n\n: ping\n\n")
        assert text.endswith(stream.DONE)

    asyncio.run(main())


def test_a_client_that_leaves_closes_the_source() -> None:
    closed: list[str] = []

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            yield sse({})
            await asyncio.sleep(60)
        finally:
            closed.append("source")

    async def main() -> None:
        client = Client()
        reading = asyncio.create_task(client.read(events()))
        while not client.sent:
            await asyncio.sleep(0)
        client.left.set()
        with pytest.raises(ClientDisconnect):
            await reading
        assert closed == ["source"]
        assert len(asyncio.all_tasks()) == 1  # nothing is left running

    asyncio.run(main())


def test_until_gone_gives_the_result_the_error_or_the_end() -> None:
    async def work(outcome: Any) -> Any:
        await asyncio.sleep(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def main() -> None:
        client = Client()
        assert await until_gone(client.receive, work(5)) == 5
        with pytest.raises(KeyError):
            await until_gone(client.receive, work(KeyError("x")))
        client.left.set()
        with pytest.raises(ClientDisconnect):
            await until_gone(client.receive, asyncio.sleep(60))
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_work_may_end_by_itself_while_its_caller_is_cancelled() -> None:
    """Whoever cancels the caller cancels it, whether or not the client is gone too."""

    async def main() -> None:
        client = Client()
        waiting = asyncio.create_task(until_gone(client.receive, asyncio.sleep(60)))
        await asyncio.sleep(0)
        client.left.set()
        waiting.cancel()
        with pytest.raises((asyncio.CancelledError, ClientDisconnect)):
            await waiting
        stubborn = asyncio.create_task(until_gone(client.receive, asyncio.sleep(60)))
        await asyncio.sleep(0)
        stubborn.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stubborn
        assert stubborn.cancelled()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_a_client_that_left_cancels_nothing_that_comes_later() -> None:
    async def main() -> None:
        client = Client()
        client.left.set()
        with pytest.raises(ClientDisconnect):
            await until_gone(client.receive, asyncio.sleep(60))
        await asyncio.sleep(0.01)  # would raise, were the task still being cancelled
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    asyncio.run(main())


@given(st.text(), st.text())
def test_text_events_are_what_they_would_be_alone(head: str, text: str) -> None:
    def make(text: str) -> Any:
        return {"id": head, "choices": [{"delta": {"content": text}, "logprobs": None}]}

    assert TextEvents(make)(text) == sse(make(text))

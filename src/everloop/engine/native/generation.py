"""Answers on their way from the worker to whoever waits for them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable

from everloop.engine.interface import Chunk, Generation, TokenLogprob, Usage
from everloop.engine.native.frames import Message
from everloop.errors import EverloopError
from everloop.model.tokenizer import Tokenizer


class Pending(ABC):
    """One request that the worker has."""

    request_id = ""

    @abstractmethod
    def feed(self, event: Message) -> bool:
        """Takes an event (`jobs.Event`); True if it was the last."""

    @abstractmethod
    def fail(self, error: EverloopError) -> None:
        """Ends with an error."""


class Reply(Pending):
    """A request with a single answer."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    def feed(self, event: Message) -> bool:
        if "cancelled" in event:
            return True
        if event["error"] is not None:
            self.fail(model_failed(event["error"]))
        elif not self.future.done():
            self.future.set_result(event)
        return True

    def fail(self, error: EverloopError) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # seen: nobody may be waiting any more


class NativeGeneration(Generation, Pending):
    """A generation in the worker."""

    def __init__(
        self,
        prompt_tokens: int,
        tokenizer: Tokenizer,
        send_cancel: Callable[[], None],
        *,
        request_id: str,
    ) -> None:
        self.prompt_tokens, self.request_id = prompt_tokens, request_id
        self._tokenizer, self._send_cancel = tokenizer, send_cancel
        self._events: asyncio.Queue[Message | EverloopError | None] = asyncio.Queue()
        self._usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=0)
        self._seen = 0  # tokens received, should the worker not live to tell the usage
        self._ended = asyncio.Event()

    def feed(self, event: Message) -> bool:
        if "cancelled" in event:
            self._end(event["usage"])
            self._events.put_nowait(None)
            return True
        if event["error"] is not None:
            self.fail(model_failed(event["error"]))
            return True
        self._events.put_nowait(event)
        self._seen += len(event["tokens"] or ())
        if event["finish"] is None:
            return False
        self._end(event["usage"])
        return True

    def fail(self, error: EverloopError) -> None:
        self._events.put_nowait(error)
        self._end((self.prompt_tokens, self._seen, 0))

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        finished = False
        try:
            while not finished:
                event = await self._events.get()
                if event is None:
                    return
                if isinstance(event, EverloopError):
                    raise event
                finished = event["finish"] is not None
                yield self._chunk(event)
        finally:
            if not self._ended.is_set():
                self._send_cancel()

    async def cancel(self) -> Usage:
        if not self._ended.is_set():
            self._send_cancel()
            await self._ended.wait()
        return self._usage

    def _end(self, usage: tuple[int, int, int] | None) -> None:
        if usage is not None:
            prompt, completion, cached = usage
            self._usage = Usage(
                prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached
            )
        self._ended.set()

    def _chunk(self, event: Message) -> Chunk:
        return Chunk(
            text=event["text"],
            tokens=tuple(self._token(*token) for token in event["tokens"] or ()),
            finish_reason=event["finish"],
            usage=self._usage if event["finish"] is not None else None,
        )

    def _token(
        self, token: int, logprob: float | None, top: list[tuple[int, float]]
    ) -> TokenLogprob:
        text, data = self._text(token)
        alternatives = tuple((*self._text(i), value) for i, value in top)
        return TokenLogprob(text=text, bytes=data, id=token, logprob=logprob, top=alternatives)

    def _text(self, token: int) -> tuple[str, bytes]:
        data = self._tokenizer.token_bytes(token)
        return data.decode(errors="replace"), data


def model_failed(message: str) -> EverloopError:
    """A request that ended because of what the model computed."""
    return EverloopError(message, code="model_failed")

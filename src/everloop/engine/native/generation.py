"""Answers on their way from the worker to whoever waits for them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from everloop.engine.interface import Chunk, EarlyExit, Generation, TokenLogprob, Usage
from everloop.engine.native.frames import Message
from everloop.errors import EverloopError
from everloop.model.tokenizer import Tokenizer


class Pending(ABC):
    """One request that the worker has."""

    request_id = ""

    @abstractmethod
    def feed(self, event: Message) -> bool:
        """Takes an event (`jobs.Event.message`); True if it was the last."""

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
        if event.get("error") is not None:
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
        exit: EarlyExit | None = None,
    ) -> None:
        self._exit = exit
        self.prompt_tokens, self.request_id = prompt_tokens, request_id
        self._tokenizer, self._send_cancel = tokenizer, send_cancel
        self._chunks: list[Chunk] = []  # not yet read
        self._error: EverloopError | None = None  # comes after them
        self._usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=0)
        self._seen = 0  # tokens received, should the worker not live to tell the usage
        self._ended = False
        self._news: asyncio.Future[None] | None = None  # what the reader waits for
        self._end: asyncio.Future[None] | None = None  # what those who cancel wait for

    def feed(self, event: Message) -> bool:
        if "cancelled" in event:
            self._over(event["usage"])
            return True
        error = event.get("error")
        if error is not None:
            self.fail(model_failed(error))
            return True
        self._seen += event.get("count", 0)
        finish = event.get("finish")
        if finish is not None:
            self._over(event["usage"])
        self._chunks.append(
            Chunk(
                text=event["text"],
                tokens=tuple([self._token(*token) for token in event.get("tokens") or ()]),
                finish_reason=finish,
                usage=None if finish is None else self._usage,
            )
        )
        _wake(self._news)
        return finish is not None

    def fail(self, error: EverloopError) -> None:
        self._error = error
        self._over((self.prompt_tokens, self._seen, 0))

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        async with aclosing(self.groups()) as groups:
            async for group in groups:
                for chunk in group:
                    yield chunk

    async def groups(self) -> AsyncGenerator[Sequence[Chunk], None]:
        try:
            while True:
                if self._chunks:
                    group, self._chunks = self._chunks, []
                    yield group
                elif self._error is not None:
                    raise self._error
                elif self._ended:
                    return
                else:
                    self._news = asyncio.get_running_loop().create_future()
                    await self._news
        finally:
            if not self._ended:
                self._send_cancel()

    async def cancel(self) -> Usage:
        if not self._ended:
            self._send_cancel()
            if self._end is None:
                self._end = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._end)
        return self._usage

    def _over(self, usage: Sequence[int] | None) -> None:
        if usage is not None:
            prompt, completion, cached, *predicted = usage  # as `jobs.Used`
            accepted, rejected, *exited = predicted or (0, 0)
            self._usage = Usage(
                prompt_tokens=prompt,
                completion_tokens=completion,
                cached_tokens=cached,
                accepted_prediction_tokens=accepted,
                rejected_prediction_tokens=rejected,
                early_exit=None if self._exit is None else replace(self._exit, exited=sum(exited)),
            )
        self._ended = True
        _wake(self._news)
        _wake(self._end)

    def _token(
        self, token: int, logprob: float | None, top: list[tuple[int, float]]
    ) -> TokenLogprob:
        text, data = self._text(token)
        alternatives = tuple((*self._text(i), value) for i, value in top)
        return TokenLogprob(text=text, bytes=data, id=token, logprob=logprob, top=alternatives)

    def _text(self, token: int) -> tuple[str, bytes]:
        data = self._tokenizer.token_bytes(token)
        return data.decode(errors="replace"), data


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def model_failed(message: str) -> EverloopError:
    """A request that ended because of what the model computed."""
    return EverloopError(message, code="model_failed")

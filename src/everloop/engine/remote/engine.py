"""The engine interface over an OpenAI-compatible server (vLLM, llama.cpp, an upstream).

What such a server can't do is refused by the name of the parameter, never left out in silence.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

from everloop.engine.interface import (
    Chunk,
    Embedding,
    Engine,
    EngineStatus,
    GenerateRequest,
    Generation,
    Message,
    ModelInfo,
    Prompt,
    Sampling,
    Score,
    ScoreRequest,
    Usage,
)
from everloop.engine.remote import parse
from everloop.engine.remote.http import Api, RemoteOptions, Stream
from everloop.errors import EngineUnavailable, EverloopError, InvalidRequest, NotFound

Json = dict[str, Any]

UNKNOWN_CONTEXT = 2**31 - 1
"""Context length where the server doesn't tell: it will refuse what is too long itself."""


class RemoteEngine(Engine):
    """One model of a server at `url` (its base, such as http://127.0.0.1:8000/v1)."""

    def __init__(
        self, url: str, key: str | None, model: str, options: RemoteOptions | None = None
    ) -> None:
        self._api = Api(url, key, options or RemoteOptions())
        self._model = model
        self._running = 0
        self._detail = "not started"
        self._ready = False
        self._takes_additions = True  # until it refuses them
        self._tokenizes: bool | None = None  # None: not tried yet
        self.info = ModelInfo(id=model, context_length=UNKNOWN_CONTEXT, vocab_size=None)

    async def start(self) -> None:
        try:
            found = await self._api.get("/models")
        except (InvalidRequest, NotFound):
            found = {}  # a server without a list of models may well have this one
        except EverloopError as error:
            self._detail = error.message
            raise
        models = found.get("data")
        for model in models if isinstance(models, list) else ():
            if isinstance(model, dict) and model.get("id") == self._model:
                context, created = model.get("max_model_len"), model.get("created")
                self.info = ModelInfo(
                    id=self._model,
                    context_length=context if isinstance(context, int) else UNKNOWN_CONTEXT,
                    vocab_size=None,
                    fills_middle=True,  # the server knows, and refuses `suffix` if not
                    created=created if isinstance(created, int) else 0,
                )
        self._ready, self._detail = True, "ready"

    async def close(self) -> None:
        self._ready, self._detail = False, "closed"
        await self._api.close()

    async def generate(self, request: GenerateRequest) -> Generation:
        self._check_started()
        if request.early_exit is not None:
            raise InvalidRequest(
                "A remote model's layers can't be left out: leave 'early_exit' out.",
                param="early_exit",
                code="unsupported_parameter",
            )
        body = _sampling(request)
        messages = _messages(request.prompt)
        if messages is not None:
            for name in ("echo", "suffix"):
                if getattr(request, name):
                    raise InvalidRequest(f"`{name}` needs a prompt, not messages.", param=name)
            body["messages"] = [dict(m) for m in messages]
            if request.logprobs is not None:
                body |= {"logprobs": True, "top_logprobs": request.logprobs}
            if request.prediction:
                body["prediction"] = {"type": "content", "content": request.prediction}
            stream = await self._stream("/chat/completions", body, request.sampling)
            return RemoteGeneration(stream, parse.chat_chunk, self._ended)
        body |= {"prompt": _plain(request.prompt), "max_tokens": request.max_tokens}
        for name in ("logprobs", "suffix"):
            if getattr(request, name) is not None:
                body[name] = getattr(request, name)
        if request.echo:
            body["echo"] = True
        stream = await self._stream("/completions", body, request.sampling)
        most = request.logprobs or 0
        return RemoteGeneration(
            stream, lambda event: parse.completion_chunk(event, most), self._ended
        )

    async def score(self, request: ScoreRequest) -> list[Score]:
        self._check_started()
        if not request.continuations:
            return []
        prompt = await self._tokens(request.prompt, start=True)
        if prompt is None and not isinstance(request.prompt, str):
            raise InvalidRequest(
                "The remote server can't score after messages: it has no /tokenize.",
                param="prompt",
            )
        return [await self._score(request, prompt, c) for c in request.continuations]

    async def embed(self, texts: Sequence[str], *, tenant: str = "") -> list[Embedding]:
        self._check_started()
        if not texts:
            return []
        body = {"model": self._model, "input": list(texts), "encoding_format": "float"}
        reply = await self._post("/embeddings", body)
        try:
            rows = sorted(reply["data"], key=lambda row: int(row["index"]))
            vectors = [[float(x) for x in row["embedding"]] for row in rows]
            norms = [math.hypot(*vector) for vector in vectors]
            if len(vectors) != len(texts) or not all(0 < n < math.inf for n in norms):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise EngineUnavailable("The remote server sent no usable embeddings.") from None
        used = parse.usage(reply)
        each, rest = divmod(used.prompt_tokens if used else 0, len(texts))
        return [
            Embedding(vector=tuple(x / norm for x in vector), tokens=each + (i < rest))
            for i, (vector, norm) in enumerate(zip(vectors, norms, strict=True))
        ]

    async def count_tokens(self, prompt: Prompt) -> int:
        """Asks /tokenize where there is one, else reads the usage of a one-token answer."""
        self._check_started()
        ids = await self._tokens(prompt, start=True)
        if ids is not None:
            return len(ids)
        body: Json = {"max_tokens": 1, "temperature": 0}
        messages = _messages(prompt)
        if messages is not None:
            reply = await self._post(
                "/chat/completions", {**body, "messages": [dict(m) for m in messages]}
            )
        else:
            reply = await self._post("/completions", {**body, "prompt": _plain(prompt)})
        used = parse.usage(reply)
        if used is None:
            raise EngineUnavailable("The remote server doesn't tell how many tokens it read.")
        return used.prompt_tokens

    def status(self) -> EngineStatus:
        return EngineStatus(ready=self._ready, running=self._running, detail=self._detail)

    def _check_started(self) -> None:
        if not self._ready:
            raise EngineUnavailable(f"The remote engine is {self._detail}.")

    def _ended(self) -> None:
        self._running -= 1

    async def _stream(self, path: str, body: Json, sampling: Sampling) -> Stream:
        body |= {"model": self._model, "stream": True, "stream_options": {"include_usage": True}}
        extra = _additions(sampling)
        plain = extra == _additions(Sampling())
        if plain and not self._takes_additions:
            extra = {}
        try:
            stream = await self._api.stream(path, body | extra)
        except InvalidRequest as error:
            if "prediction" in body and "prediction" in f"{error.param} {error.message}":
                # It changes nothing but the time that an answer takes.
                del body["prediction"]
                return await self._stream(path, body, sampling)
            named = error.param in extra or any(name in error.message for name in extra)
            if not plain or not named:
                raise
            # It knows OpenAI's parameters only, and so has no defaults for others.
            self._takes_additions = False
            stream = await self._api.stream(path, body)
        self._running += 1
        return stream

    async def _post(self, path: str, body: Json) -> Json:
        return await self._api.post(path, {"model": self._model, **body})

    async def _tokens(self, prompt: Prompt, *, start: bool) -> list[int] | None:
        """Token ids by vLLM's /tokenize (beside /v1); None where there is no such thing."""
        messages = _messages(prompt)
        if messages is None and not isinstance(prompt, str):
            return list(cast("tuple[int, ...]", prompt))
        if self._tokenizes is False:
            return None
        if messages is not None:
            body: Json = {"messages": [dict(m) for m in messages], "add_generation_prompt": True}
        else:
            body = {"prompt": prompt, "add_special_tokens": start}
        try:
            reply = await self._api.post("/tokenize", {"model": self._model, **body}, root=True)
            tokens = [int(t) for t in reply["tokens"]]
        except (NotFound, InvalidRequest, EngineUnavailable, KeyError, TypeError, ValueError):
            if self._tokenizes:
                raise
            self._tokenizes = False
            return None
        self._tokenizes = True
        return tokens

    async def _score(
        self, request: ScoreRequest, prompt: list[int] | None, continuation: str | tuple[int, ...]
    ) -> Score:
        """One continuation, by echoing prompt and continuation with log-probabilities."""
        if not continuation:
            return Score(tokens=(), logprobs=())
        ids = await self._tokens(continuation, start=False)
        whole: str | list[int]
        if prompt is not None and ids is not None:
            whole, offset = [*prompt, *ids], 0
        elif isinstance(request.prompt, str) and isinstance(continuation, str):
            whole, offset = request.prompt + continuation, len(request.prompt)
        else:
            raise InvalidRequest(
                "The remote server scores text after text or token ids after token ids.",
                param="continuations",
            )
        body = {"prompt": whole, "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0}
        reply = await self._post("/completions", body)
        try:
            found = reply["choices"][0]["logprobs"]
            tokens = parse.completion_tokens(found, 0)
            if ids is not None and prompt is not None:
                own, names = tokens[len(prompt) : len(prompt) + len(ids)], ids
            else:
                places = found["text_offset"]
                end = offset + len(continuation)
                own = tuple(t for t, at in zip(tokens, places, strict=True) if offset <= at < end)
                names = [-1 if t.id is None else t.id for t in own]
            values = [t.logprob for t in own]
            if not values or None in values or len(values) != len(names):
                raise ValueError
        except (KeyError, IndexError, TypeError, ValueError):
            raise EngineUnavailable(
                "The remote server doesn't give the log-probabilities of a prompt (echo)."
            ) from None
        return Score(tokens=tuple(names), logprobs=tuple(cast("list[float]", values)))


class RemoteGeneration(Generation):
    """A streamed answer. `prompt_tokens` is 0 until the server tells, at the end."""

    def __init__(
        self,
        stream: Stream,
        read: Callable[[Json], Chunk | None],
        ended: Callable[[], None],
    ) -> None:
        self.prompt_tokens = 0
        self._stream, self._read, self._on_end = stream, read, ended
        self._usage: Usage | None = None
        self._written = 0
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        last: Chunk | None = None
        try:
            async for event in self._stream:
                try:
                    chunk = self._read(event)
                    told = parse.usage(event)
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise EngineUnavailable(
                        "The remote server sent an event that is no completion."
                    ) from None
                if told is not None:
                    self._usage, self.prompt_tokens = told, told.prompt_tokens
                if chunk is None or last is not None:
                    continue
                self._written += len(chunk.tokens) or bool(chunk.text)
                if chunk.finish_reason is not None:
                    last = chunk  # the usage comes after it
                elif chunk.text or chunk.tokens:
                    yield chunk
            if last is None:
                raise EngineUnavailable("The remote server ended before its answer did.")
            yield Chunk(
                text=last.text,
                tokens=last.tokens,
                finish_reason=last.finish_reason,
                usage=self._known_usage(),
            )
        except EngineUnavailable:
            if not self._closed:  # else it was cancelled meanwhile: a quiet end
                raise
        finally:
            await self._close()

    async def cancel(self) -> Usage:
        await self._close()
        return self._known_usage()

    def _known_usage(self) -> Usage:
        """What the server said, or, where it said nothing, the pieces it sent."""
        return self._usage or Usage(prompt_tokens=0, completion_tokens=self._written)

    async def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._on_end()
            await self._stream.close()


def _sampling(request: GenerateRequest) -> Json:
    """Sampling rules as OpenAI names them, those that are on."""
    s = request.sampling
    body: Json = {"temperature": s.temperature, "top_p": s.top_p}
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    given = {
        "presence_penalty": s.presence_penalty or None,
        "frequency_penalty": s.frequency_penalty or None,
        "logit_bias": {str(k): v for k, v in s.logit_bias.items()} or None,
        "seed": s.seed,
        "stop": list(request.stop) or None,
        "ignore_eos": request.ignore_eos or None,
    }
    return body | {name: value for name, value in given.items() if value is not None}


def _additions(sampling: Sampling) -> Json:
    """Rules that vLLM and others add to OpenAI's. They are sent even where they are off: a server
    may have defaults of its own for them."""
    return {
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
    }


def _messages(prompt: Prompt) -> tuple[Message, ...] | None:
    if isinstance(prompt, str) or not prompt or isinstance(prompt[0], int):
        return None
    return prompt


def _plain(prompt: Prompt) -> str | list[int]:
    return prompt if isinstance(prompt, str) else list(cast("tuple[int, ...]", prompt))

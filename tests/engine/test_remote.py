"""The remote engine against a real HTTP server with every bad habit."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.engine.interface import Chunk, GenerateRequest, Message, Sampling, ScoreRequest
from everloop.engine.remote import RemoteEngine, RemoteOptions
from everloop.engine.remote.sse import events
from everloop.errors import (
    ContextLengthExceeded,
    EngineUnavailable,
    EverloopError,
    InvalidRequest,
    KeyRefused,
    NotFound,
    Overloaded,
)
from tests.engine.peer import Handler, Json, Peer, Request

KEY = "sk-remote-secret"
CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
HELLO: tuple[Message, ...] = ({"role": "user", "content": "你好"},)

FAST = RemoteOptions(
    connect_seconds=2,
    try_seconds=1,
    idle_seconds=0.5,
    total_seconds=3,
    retries=2,
    backoff_seconds=0.01,
    longest_wait=1.0,
)


def delta(text: str | None = None, finish: str | None = None, **more: object) -> Json:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish, **more}]}


def piece(text: str, finish: str | None = None, **more: object) -> Json:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish, **more}]}


USAGE = {
    "choices": [],
    "usage": {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 3},
    },
}


async def good(request: Request) -> None:
    await request.events(delta("今"), delta("天"), delta(None, "stop"), USAGE)


async def good_text(request: Request) -> None:
    await request.events(piece("今"), piece("天", "length"), USAGE)


async def models(request: Request) -> None:
    await request.json({"data": [{"id": "m", "max_model_len": 4096, "created": 7}]})


def refuse(status: int, message: str = "no", **fields: object) -> Handler:
    async def handler(request: Request) -> None:
        await request.error(status, message, **fields)

    return handler


def with_remote(
    body: Callable[[RemoteEngine, Peer], Awaitable[None]], options: RemoteOptions = FAST
) -> None:
    async def run() -> None:
        async with Peer() as peer:
            peer.on("/v1/models", models)
            engine = RemoteEngine(peer.url, KEY, "m", options)
            try:
                await engine.start()
                peer.requests.clear()
                await body(engine, peer)
            finally:
                await engine.close()

    asyncio.run(run())


async def collect(engine: RemoteEngine, request: GenerateRequest) -> list[Chunk]:
    return [chunk async for chunk in await engine.generate(request)]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_chat_streams_and_counts() -> None:
    async def body(engine: RemoteEngine, peer: Peer) -> None:
        assert engine.info.context_length == 4096
        assert engine.info.created == 7
        peer.on(CHAT, good)
        generation = await engine.generate(GenerateRequest(prompt=HELLO, max_tokens=9))
        assert engine.status().running == 1
        chunks = [chunk async for chunk in generation]
        assert text_of(chunks) == "今天"
        assert chunks[-1].finish_reason == "stop"
        usage = chunks[-1].usage
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (5, 2, 3)
        assert generation.prompt_tokens == 5
        assert await generation.cancel() == usage
        assert engine.status().running == 0
        [request] = peer.requests
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.body == {
            "model": "m",
            "messages": [{"role": "user", "content": "你好"}],
            "max_tokens": 9,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,  # off, and said so: the server may have defaults of its own
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    with_remote(body)


def test_every_parameter_arrives_under_its_name() -> None:
    sampling = Sampling(
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        min_p=0.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        repetition_penalty=1.1,
        logit_bias={7: -1.5},
        seed=3,
    )

    async def body(engine: RemoteEngine, peer: Peer) -> None:
        peer.on(COMPLETE, good_text)
        request = GenerateRequest(
            prompt=(1, 2, 3),
            max_tokens=4,
            sampling=sampling,
            stop=("a", "b"),
            ignore_eos=True,
            logprobs=2,
            echo=True,
            suffix="!",
        )
        await collect(engine, request)
        sent = peer.requests[0].body
        assert {k: v for k, v in sent.items() if k not in ("stream", "stream_options")} == {
            "model": "m",
            "prompt": [1, 2, 3],
            "max_tokens": 4,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 5,
            "min_p": 0.1,
            "presence_penalty": 0.2,
            "frequency_penalty": 0.3,
            "repetition_penalty": 1.1,
            "logit_bias": {"7": -1.5},
            "seed": 3,
            "stop": ["a", "b"],
            "ignore_eos": True,
            "logprobs": 2,
            "echo": True,
            "suffix": "!",
        }
        for name, value in (("echo", True), ("suffix", "x")):
            chat = GenerateRequest(prompt=HELLO, **{name: value})
            with pytest.raises(InvalidRequest) as caught:
                await engine.generate(chat)
            assert caught.value.param == name

    with_remote(body)


def test_a_server_that_knows_only_openais_parameters() -> None:
    async def strict(request: Request) -> None:
        for name in ("top_k", "min_p", "repetition_penalty"):
            if name in request.body:
                await request.error(400, f"Unrecognized request argument supplied: {name}")
                return
        await good(request)

    async def body(engine: RemoteEngine, peer: Peer) -> None:
        peer.on(CHAT, strict)
        for requests in (2, 1):  # it learns
            peer.requests.clear()
            assert text_of(await collect(engine, GenerateRequest(prompt=HELLO))) == "今天"
            assert len(peer.requests) == requests
        with pytest.raises(InvalidRequest, match="top_k"):  # asked for: never left out in silence
            await engine.generate(GenerateRequest(prompt=HELLO, sampling=Sampling(top_k=5)))

    with_remote(body)


def test_a_prediction_goes_along_but_never_in_the_way() -> None:
    async def strict(request: Request) -> None:
        if "prediction" in request.body:
            await request.error(400, "Unrecognized request argument supplied: prediction")
            return
        await good(request)

    async def body(engine: RemoteEngine, peer: Peer) -> None:
        asked = GenerateRequest(prompt=HELLO, prediction="今天很好")
        for handler, tried in ((good, 1), (strict, 2)):
            peer.requests.clear()
            peer.on(CHAT, handler)
            assert text_of(await collect(engine, asked)) == "今天"
            assert len(peer.requests) == tried
            sent = peer.requests[0].body["prediction"]
            assert sent == {"type": "content", "content": "今天很好"}

    with_remote(body)


def test_logprobs_of_both_kinds() -> None:
    chat = {
        "content": [
            {
                "token": "\ufffd",
                "bytes": [228, 187],
                "logprob": -0.5,
                "top_logprobs": [{"token": "a", "bytes": None, "logprob": -0.1}],
            }
        ]
    }
    text = {
        "tokens": ["bytes:\\xe4\\xbb", "token_id:17", "b"],
        "token_logprobs": [None, -0.25, -1],
        "top_logprobs": [None, {"x": -2, "y": -1}, {}],
        "text_offset": [0, 1, 2],
    }

    async def body(engine: RemoteEngine, peer: Peer) -> None:
        async def chat_reply(request: Request) -> None:
            await request.events(delta("", logprobs=chat), delta("仅", "stop"))

        async def text_reply(request: Request) -> None:
            await request.events(piece("仅b", "stop", logprobs=text))

        peer.on(CHAT, chat_reply)
        peer.on(COMPLETE, text_reply)
        chunks = await collect(engine, GenerateRequest(prompt=HELLO, logprobs=1))
        assert peer.requests[0].body["top_logprobs"] == 1
        token = chunks[0].tokens[0]
        assert (token.bytes, token.logprob, token.top) == (b"\xe4\xbb", -0.5, (("a", b"a", -0.1),))
        [chunk] = await collect(engine, GenerateRequest(prompt="x", logprobs=2))
        assert [t.bytes for t in chunk.tokens] == [b"\xe4\xbb", b"token_id:17", b"b"]
        assert [t.logprob for t in chunk.tokens] == [None, -0.25, -1.0]
        assert [t.id for t in chunk.tokens] == [None, 17, None]
        assert chunk.tokens[1].top == (("y", b"y", -1.0), ("x", b"x", -2.0))
        assert chunk.usage is not None
        assert chunk.usage.completion_tokens == 3  # no usage was sent: what was seen

    with_remote(body)


@pytest.mark.parametrize(
    ("handler", "kind", "param"),
    [
        (refuse(400, "bad top_p", param="top_p"), InvalidRequest, "top_p"),
        (refuse(422, "bad"), InvalidRequest, None),
        (
            refuse(400, "too long", code="context_length_exceeded", param="messages"),
            ContextLengthExceeded,
            "messages",
        ),
        (refuse(404, "no model", code="model_not_found"), NotFound, "model"),
        (refuse(401, "bad key"), KeyRefused, None),
        (refuse(429, "slow down", retry_after=7), Overloaded, None),
        (refuse(503, "starting", retry_after=9), EngineUnavailable, None),
        (refuse(500, "oops", x_should_retry="false"), EngineUnavailable, None),
    ],
)
def test_refusals(handler: Handler, kind: type[EverloopError], param: str | None) -> None:
    async def body(engine: RemoteEngine, peer: Peer) -> None:
        peer.on(CHAT, handler)
        with pytest.raises(kind) as caught:
            await engine.generate(GenerateRequest(prompt=HELLO))
        assert type(caught.value) is kind
        assert caught.value.param == param
        assert len(peer.requests) == 1  # none of these is tried again
        assert KEY not in str(caught.value)
        if isinstance(caught.value, Overloaded):
            assert caught.value.retry_after == 7
        assert engine.status().running == 0

    with_remote(body)


async def nothing(request: Request) -> None:
    """Closes without a byte."""


async def silence(request: Request) -> None:
    await asyncio.sleep(30)


async def half_a_head(request: Request) -> None:
    await request.raw(b"HTTP/1.1 200 OK\r\ncontent-ty")


async def not_http(request: Request) -> None:
    await request.raw(b"\x00\x01 what is this\r\n\r\n")


async def page(request: Request) -> None:
    await request.head(200, "text/html")
    await request.raw(b"<html>login</html>")


async def bad_json(request: Request) -> None:
    await request.head(200, "text/event-stream")
    await request.raw(b"data: {not json\n\n")


async def not_an_object(request: Request) -> None:
    await request.events([1, 2])


async def empty_stream(request: Request) -> None:
    await request.events()


async def redirect(request: Request) -> None:
    await request.head(302, "text/plain", location="http://127.0.0.1:1/")


async def error_first(request: Request) -> None:
    await request.events({"error": {"message": "boom", "code": 500}})


async def head_then_silence(request: Request) -> None:
    await request.head(200, "text/event-stream")
    await asyncio.sleep(30)


@pytest.mark.parametrize(
    ("handler", "tries"),
    [
        (nothing, 3),
        (silence, 3),
        (half_a_head, 3),
        (not_http, 3),
        (page, 1),
        (bad_json, 1),
        (not_an_object, 1),
        (empty_stream, 3),
        (redirect, 1),
        (error_first, 3),
        (head_then_silence, 3),
        (refuse(502), 3),
    ],
)
def test_broken_before_the_first_byte(handler: Handler, tries: int) -> None:
    options = RemoteOptions(try_seconds=0.3, total_seconds=5, backoff_seconds=0.01)

    async def body(engine: RemoteEngine, peer: Peer) -> None:
        peer.on(CHAT, handler)
        with pytest.raises(EngineUnavailable):
            await engine.generate(GenerateRequest(prompt=HELLO))
        assert len(peer.requests) == tries
        peer.on(CHAT, handler, good)
        if tries > 1:  # the second try succeeds, and nobody notices
            assert text_of(await collect(engine, GenerateRequest(prompt=HELLO))) == "今天"
        peer.on(CHAT, good)
        assert text_of(await collect(engine, GenerateRequest(prompt=HELLO))) == "今天"

    with_remote(body, options)


def test_an_invalid_request_inside_a_stream_of_200_is_still_one() -> None:
    async def handler(request: Request) -> None:
        error = {"message": "bad", "type": "invalid_request_error", "param": "stop"}
        await request.events({"error": error})

    async def body(engine: RemoteEngine, peer: Peer) -> None:
        peer.on(CHAT, handler)
        with pytest.raises(InvalidRequest, match="bad") as caught:
            await engine.generate(GenerateRequest(prompt=HELLO))
        assert caught.value.param == "stop"

    with_remote(body)


async def breaks_off(request: Request) -> None:
    await request.events(delta("今"), done=False)


async def stalls(request: Request) -> None:
    await request.events(delta("今"), done=False)
    await asyncio.sleep(30)


async def turns_bad(request: Request) -> None:
    await request.events(delta("今"), done=False)
    await request.raw(b"data: oops\n\n")


async def fails_late(request: Request) -> None:
    await request.events(delta("今"), {"error": {"message": "out of memory"}})


async def wrong_shape(request: Request) -> None:
    await request.events(delta("今"), {"choices": [{"delta": {"content": 5}}]})


async def no_choices(request: Request) -> None:
    await request.events(delta("今"), {"hello": 1})


async def no_finish(request: Request) -> None:
    await request.events(delta("今"), USAGE)


async def drips(request: Request) -> None:
    await request.events(delta("今"), done=False)
    for _ in range(100):
        await request.raw(b": keep-alive\n\n")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "handler",
    [breaks_off, stalls, turns_bad, fails_late, wrong_shape, no_choices, no_finish, drips],
)
def test_broken_in_the_middle_is_told_and_not_tried_again(handler: Handler) -> None:
    async def body(engine: RemoteEngine, peer: Peer) -> None:
        peer.on(CHAT, handler)
        generation = await engine.generate(GenerateRequest(prompt=HELLO))
        seen: list[Chunk] = []

        async def read() -> None:
            async for chunk in generation:
                seen.append(chunk)

        with pytest.raises(EngineUnavailable):
            await read()
        assert text_of(seen) == "今"
        assert len(peer.requests) == 1
        assert engine.status().running == 0
        assert (await generation.cancel()).completion_tokens == 1 or handler is no_finish

    with_remote(body, RemoteOptions(idle_seconds=0.3, total_seconds=1, backoff_seconds=0.01))


@pytest.mark.parametrize(
    "header",
    [{"retry_after": "0.2"}, {"retry_after_ms": "200"}, {"retry_after": formatdate(0)}, {}],
)
def test_a_pause_that_the_server_asks_for_is_kept(header: dict[str, str]) -> None:
    async def busy(request: Request) -> None:
        await request.json({"error": {"message": "busy"}}, 429, **header)

    async def body(engine: RemoteEngine, peer: Peer) -> None:
        peer.on(CHAT, busy, good)
        began = time.monotonic()
        assert text_of(await collect(engine, GenerateRequest(prompt=HELLO))) == "今天"
        if header.get("retry_after") == "0.2" or "retry_after_ms" in header:
            assert time.monotonic() - began >= 0.2
        assert len(peer.requests) == 2

    with_remote(body)


def test_cancel_hangs_up_and_ends_whoever_iterates() -> None:
    async def endless(request: Request) -> None:
        await request.events(*[delta("字")] * 3, done=False)
        await asyncio.sleep(30)

    async def body(engine: RemoteEngine, peer: Peer) -> None:
        peer.on(CHAT, endless)
        generation = await engine.generate(GenerateRequest(prompt=HELLO))
        seen: list[Chunk] = []

        async def read() -> None:
            async for chunk in generation:
                seen.append(chunk)

        reading = asyncio.create_task(read())
        while len(seen) < 3:
            await asyncio.sleep(0.01)
        usage = await generation.cancel()
        assert usage.completion_tokens == 3
        async with asyncio.timeout(2):
            await reading
            while not peer.gone:
                await asyncio.sleep(0.01)
        assert engine.status().running == 0
        async for _ in await engine.generate(GenerateRequest(prompt=HELLO)):
            break  # leaving early hangs up too
        async with asyncio.timeout(2):
            while peer.gone < 2 or engine.status().running:
                await asyncio.sleep(0.01)

    with_remote(body, RemoteOptions(idle_seconds=20))


def test_nobody_there() -> None:
    async def run() -> None:
        engine = RemoteEngine("http://127.0.0.1:9/v1", None, "m", FAST)
        with pytest.raises(EngineUnavailable):
            await engine.generate(GenerateRequest(prompt="x"))
        with pytest.raises(EngineUnavailable):
            await engine.start()
        assert not engine.status().ready
        await engine.close()

    asyncio.run(run())


def test_embeddings_are_put_in_order_and_scaled() -> None:
    async def reply(request: Request) -> None:
        assert request.body["encoding_format"] == "float"
        rows = [{"index": 1, "embedding": [0, 2]}, {"index": 0, "embedding": [3, 4]}]
        await request.json({"data": rows, "usage": {"prompt_tokens": 5}})

    async def zero(request: Request) -> None:
        await request.json({"data": [{"index": 0, "embedding": [0, 0]}]})

    async def short(request: Request) -> None:
        await request.json({"data": []})

    async def body(engine: RemoteEngine, peer: Peer) -> None:
        peer.on("/v1/embeddings", reply)
        first, second = await engine.embed(["a", "b"])
        assert (first.vector, second.vector) == ((0.6, 0.8), (0.0, 1.0))
        assert (first.tokens, second.tokens) == (3, 2)
        for bad in (zero, short):
            peer.on("/v1/embeddings", bad)
            with pytest.raises(EngineUnavailable):
                await engine.embed(["a"])

    with_remote(body)


def echoed(prompt_tokens: int, values: list[float]) -> Handler:
    """Logprobs of a prompt of one-character tokens."""

    async def handler(request: Request) -> None:
        prompt = request.body["prompt"]
        count = len(prompt)
        assert request.body["echo"]
        assert request.body["max_tokens"] == 0
        logprobs = {
            "tokens": [str(t) for t in prompt],
            "token_logprobs": [None, *[-9.0] * (prompt_tokens - 1), *values],
            "top_logprobs": None,
            "text_offset": list(range(count)),
        }
        await request.json({"choices": [{"text": "", "logprobs": logprobs}]})

    return handler


def test_score_text_after_text() -> None:
    async def body(engine: RemoteEngine, peer: Peer) -> None:
        peer.on(COMPLETE, echoed(2, [-1.0]), echoed(2, [-2.0, -0.5]))
        scores = await engine.score(ScoreRequest(prompt="天气", continuations=("好", "很好", "")))
        assert [s.logprobs for s in scores] == [(-1.0,), (-2.0, -0.5), ()]
        with pytest.raises(InvalidRequest):
            await engine.score(ScoreRequest(prompt=HELLO, continuations=("好",)))
        with pytest.raises(InvalidRequest):
            await engine.score(ScoreRequest(prompt="天气", continuations=((1, 2),)))
        peer.on(COMPLETE, good_text)
        with pytest.raises(EngineUnavailable):
            await engine.score(ScoreRequest(prompt="天气", continuations=("好",)))

    with_remote(body)


def test_score_with_a_servers_own_tokenizer() -> None:
    async def tokenize(request: Request) -> None:
        start = [1] if request.body.get("add_special_tokens", True) else []
        text = request.body.get("prompt", "hello")
        await request.json({"tokens": start + [ord(c) for c in text], "count": len(text)})

    async def body(engine: RemoteEngine, peer: Peer) -> None:
        peer.on("/tokenize", tokenize)
        peer.on(COMPLETE, echoed(6, [-1.0, -2.0]))
        [score] = await engine.score(ScoreRequest(prompt=HELLO, continuations=("ab",)))
        assert (score.tokens, score.logprobs) == ((97, 98), (-1.0, -2.0))
        assert peer.requests[-1].body["prompt"] == [1, *map(ord, "hello"), 97, 98]
        assert await engine.count_tokens("abc") == 4

    with_remote(body)


def test_count_tokens_by_usage() -> None:
    async def reply(request: Request) -> None:
        assert request.body["max_tokens"] == 1
        await request.json({"choices": [], "usage": {"prompt_tokens": 11}})

    async def body(engine: RemoteEngine, peer: Peer) -> None:
        peer.on(CHAT, reply)
        peer.on(COMPLETE, reply)
        assert await engine.count_tokens(HELLO) == 11
        assert await engine.count_tokens("x") == 11
        assert await engine.count_tokens((1, 2)) == 2

    with_remote(body)


def test_a_body_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everloop.engine.remote.http.MAX_RESPONSE_BYTES", 10**5)

    async def flood(request: Request) -> None:
        await request.head(200, "application/json")
        while True:
            await request.raw(b" " * 10**4)

    async def body(engine: RemoteEngine, peer: Peer) -> None:
        peer.on("/v1/embeddings", flood)
        with pytest.raises(EngineUnavailable, match="too much"):
            await engine.embed(["a"])

    with_remote(body)


@given(
    st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=5), max_size=2), max_size=5),
    st.lists(st.integers(0, 300), max_size=8),
    st.sampled_from(["\n", "\r\n"]),
)
def test_events_however_they_are_cut(values: list[Json], cuts: list[int], newline: str) -> None:
    lines = [": hello", ""]
    for value in values:
        lines += [f"data: {json.dumps(value, ensure_ascii=False)}", ""]
    lines += ["data: [DONE]", "", 'data: {"never": "read"}', ""]
    data = newline.join(lines).encode()
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]

    async def source():  # type: ignore[no-untyped-def]
        for start, end in itertools.pairwise(edges):
            yield data[start:end]

    async def read() -> list[Json]:
        return [event async for event in events(source())]

    assert asyncio.run(read()) == values

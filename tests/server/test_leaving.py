"""Clients that go away, are slow, or take too much: nothing runs on, and others notice nothing."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.ask import complete, error
from tests.server.process import KEY, Running, scripted


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that is quick to lose patience."""
    limits = {
        "receive_timeout": "1s",
        "send_timeout": "1s",
        "max_connections": 20,
        "max_requests_per_key": 3,
    }
    with scripted(tmp_path_factory.mktemp("strict"), **limits) as running:
        yield running


def request(prompt: str, **options: object) -> bytes:
    body = json.dumps({"model": "tiny", "prompt": prompt, "max_tokens": 150, **options}).encode()
    return (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        + KEY.encode()
        + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
        + body
    )


def running_now(server: Running) -> float:
    with server.client() as http:
        for line in http.get("/metrics").text.splitlines():
            if line.startswith("everloop_engine_running"):
                return float(line.split()[-1])
    return 0.0


def wait_until_running(server: Running, count: int) -> None:
    for _ in range(500):
        if running_now(server) == count:
            return
        time.sleep(0.01)
    raise AssertionError(f"still {running_now(server)} running")


@pytest.mark.parametrize("streams", [False, True], ids=["mid-wait", "mid-stream"])
def test_a_client_that_hangs_up_ends_its_generation(server: Running, streams: bool) -> None:
    seen = len(server.logged(status=499))
    raw = server.connect()
    raw.sendall(request("slow:140", stream=streams))
    if streams:
        assert b"data:" in raw.recv(65536) + raw.recv(65536)
    wait_until_running(server, 1)
    raw.close()
    wait_until_running(server, 0)  # the whole answer would take 2.8 s more
    for _ in range(200):
        if len(server.logged(status=499)) > seen:
            break
        time.sleep(0.02)
    line = server.logged(status=499)[-1]
    assert line["completion_tokens"] < 140  # metered: what was made until then
    assert line["prompt_tokens"] == 8


def test_all_answers_of_one_call_end_with_it(server: Running) -> None:
    raw = server.connect()
    raw.sendall(request(["slow:140", "slow:140"], n=4))  # type: ignore[arg-type]
    wait_until_running(server, 8)
    raw.close()
    wait_until_running(server, 0)


def test_many_leaving_at_once(server: Running) -> None:
    sockets = [server.connect() for _ in range(50)]
    for i, raw in enumerate(sockets):
        raw.sendall(request("slow:140", stream=bool(i % 2)))
    wait_until_running(server, 50)
    for raw in sockets:
        raw.close()
    wait_until_running(server, 0)
    with server.client() as http:
        assert complete(http, "say:ok")["choices"][0]["text"] == "ok"


def read_all(raw: socket.socket) -> bytes:
    raw.settimeout(10)
    answer = b""
    try:
        while part := raw.recv(65536):
            answer += part
    except ConnectionResetError:
        pass
    return answer


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /v1/mod",
        b"GET /health HTTP/1.1\r\nHost: x\r\n",
        request("say:a")[:-5],
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        + KEY.encode()
        + b"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
    ids=["nothing", "half a line", "half a head", "half a body", "half a chunk"],
)
def test_half_a_request_is_closed_after_the_deadline(strict: Running, sent: bytes) -> None:
    with strict.connect() as raw:
        raw.sendall(sent)
        answer = read_all(raw)
    assert answer.startswith(b"HTTP/1.1 408 "), answer
    assert b'"type":"invalid_request_error"' in answer


def test_a_byte_at_a_time_wins_no_time(strict: Running) -> None:
    with strict.connect() as raw:
        begun = time.monotonic()
        try:
            for byte in b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"a" * 1000:
                raw.sendall(bytes([byte]))
                time.sleep(0.1)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert time.monotonic() - begun < 20  # instead of 100 s


def test_half_a_second_request_on_a_kept_connection(strict: Running) -> None:
    with strict.connect() as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")
        raw.sendall(b"GET /hea")
        answer = read_all(raw)
    assert b"HTTP/1.1 408 " in answer


def test_a_long_answer_outlives_the_receive_deadline(strict: Running) -> None:
    with strict.client() as http:
        body = complete(http, "slow:100", max_tokens=150)  # 2 s, the deadline is 1 s
        assert len(body["choices"][0]["text"]) == 100


def test_too_many_connections_get_a_503(strict: Running) -> None:
    idle: list[socket.socket] = []
    refused = None
    while refused is None and len(idle) < 40:
        raw = strict.connect()
        idle.append(raw)
        raw.settimeout(0.01)
        with contextlib.suppress(TimeoutError):
            refused = raw.recv(65536)
    for raw in idle:
        raw.close()
    assert refused is not None
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in refused
    time.sleep(0.2)
    with strict.client() as http:
        assert http.get("/health").status_code == 200


def test_half_open_connections_do_not_stop_others(server: Running) -> None:
    half = [server.connect() for _ in range(200)]
    for raw in half:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Le")
    with server.client() as http:
        assert complete(http, "say:ok")["choices"][0]["text"] == "ok"
    for raw in half:
        raw.close()


def test_an_answer_nobody_reads_is_ended(tmp_path: Path) -> None:
    with scripted(tmp_path, send_timeout="1s") as server:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        raw.connect(("127.0.0.1", server.port))
        ask = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + KEY.encode()
        for _ in range(400):  # pipelined: answers of 9 MB in all, none of them read
            raw.sendall(ask + b"\r\n\r\n")
        raw.settimeout(0.5)
        for _ in range(100):
            try:
                raw.sendall(b"x")
            except OSError:
                break
            time.sleep(0.1)
        else:
            raise AssertionError("still connected")
        raw.close()
        with server.client() as http:
            assert http.get("/health").status_code == 200


def test_one_key_has_its_share(strict: Running) -> None:
    busy = [strict.connect() for _ in range(3)]
    for raw in busy:
        raw.sendall(request("slow:150", stream=True))
    for raw in busy:
        assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")  # 3 s of answer begin
    with strict.client() as http:
        response = http.get("/v1/models")
        assert response.status_code == 429
        assert "max_requests_per_key" in error(response)["message"]
        assert error(response)["code"] == "rate_limit_exceeded"
        assert response.headers["retry-after"] == "1"
        assert http.get("/health").status_code == 200  # needs no key, counts for none
        for raw in busy:
            raw.close()
        for _ in range(500):
            if http.get("/v1/models").status_code == 200:
                return
            time.sleep(0.02)
    raise AssertionError("the key never got its share back")

"""The native engine when things go wrong around it: clients leave, it is killed, its server is."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import httpx2
import pytest

from tests.server.ask import chat, complete, error, idle
from tests.server.process import KEY, Running, native

PROMPT = "今天天气怎么样？ The weather"


@pytest.mark.parametrize("streams", [False, True])
def test_a_client_that_hangs_up_frees_the_engine(native_server: Running, streams: bool) -> None:
    seen = len(native_server.logged(status=499))
    raws = []
    ask = {"model": "tiny", "prompt": PROMPT, "max_tokens": 200, "n": 8, "stream": streams}
    body = json.dumps({**ask, "ignore_eos": True})
    for _ in range(16):  # far more than is written before they hang up
        raw = native_server.connect()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        size = len(body.encode())
        raw.sendall(f"{head}Content-Length: {size}\r\n\r\n{body}".encode())
        raws.append(raw)
    time.sleep(0.02)
    for raw in raws:
        raw.close()
    with native_server.client() as http:
        assert idle(http)
    for _ in range(100):
        gone = native_server.logged(status=499)[seen:]
        if len(gone) == 16:
            break
        time.sleep(0.02)
    assert len(gone) == 16
    assert sum(line.get("completion_tokens", 0) for line in gone) < 16 * 8 * 200 / 2


def test_the_engine_lives_in_the_child_only(native_server: Running) -> None:
    pid = native_server.process.pid
    maps = Path(f"/proc/{pid}/maps")
    if not maps.exists():
        pytest.skip("no /proc here")
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    def engines(of: int | str) -> list[str]:
        text = Path(f"/proc/{of}/maps").read_text()
        return [name for name in ("libtorch", "_native.so") if name in text]

    assert engines(pid) == []
    assert engines(child)


def engine_pid(server: Running) -> int:
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    if not children.exists():
        pytest.skip("no /proc here")
    (child,) = children.read_text().split()
    return int(child)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_engine_comes_back(model: Path, tmp_path: Path) -> None:
    with native(tmp_path, model) as server, server.client() as http:
        ask = {"model": "tiny", "prompt": PROMPT, "max_tokens": 200, "ignore_eos": True, "n": 8}
        replies: dict[bool, httpx2.Response] = {}

        def wait(streams: bool) -> None:
            with server.client() as own:
                replies[streams] = own.post("/v1/completions", json={**ask, "stream": streams})

        threads = [threading.Thread(target=wait, args=(streams,)) for streams in (False, True)]
        for thread in threads:
            thread.start()
        while not http.get("/metrics").text.count('engine_running{model="tiny@1"} 16.0'):
            time.sleep(0.005)
        killed = engine_pid(server)
        os.kill(killed, signal.SIGKILL)
        for thread in threads:
            thread.join()
        assert replies[False].status_code == 503
        assert error(replies[False])["code"] == "engine_unavailable"
        assert int(replies[False].headers["retry-after"]) >= 1
        # A stream that had begun ends with an error; one that had not is a 503 as well.
        assert '"engine_unavailable"' in replies[True].text
        assert "[DONE]" not in replies[True].text
        for _ in range(600):
            response = http.post("/v1/completions", json={**ask, "max_tokens": 3, "n": 1})
            if response.status_code == 200:
                break
            assert response.status_code == 503
            assert "retry-after" in response.headers
            assert http.get("/health").status_code == 200
            time.sleep(0.05)
        assert response.status_code == 200
        assert engine_pid(server) != killed
        assert 'everloop_engine_restarts{model="tiny@1"} 1.0' in http.get("/metrics").text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_engine_ends_with_its_server(model: Path, tmp_path: Path, number: int) -> None:
    with native(tmp_path, model) as server:
        child = engine_pid(server)
        code = server.stop(number)
        assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)
        for _ in range(300):
            if not alive(child):
                break
            time.sleep(0.02)
        assert not alive(child)


def test_no_prompt_reaches_the_log_of_the_real_engine(model: Path, tmp_path: Path) -> None:
    canary = "canary7f3a"
    with native(tmp_path, model, log_level="debug") as server, server.client() as http:
        complete(http, f"{canary} {PROMPT}", max_tokens=5)
        chat(http, canary, max_tokens=5)
        http.post("/v1/completions", json={"model": "tiny", "prompt": canary * 500})
        http.post("/v1/completions", json={"model": canary, "prompt": "a"})
        http.post("/v1/embeddings", json={"model": "tiny", "input": canary})
        os.kill(engine_pid(server), signal.SIGKILL)
        server.wait_logged(event="ready")
        assert server.stop() == 0
        log = server.log.read_text()
    assert canary not in log
    assert KEY not in log


def test_the_worker_is_told_nothing_on_its_command_line(native_server: Running) -> None:
    command = Path(f"/proc/{engine_pid(native_server)}/cmdline").read_text()
    assert KEY not in command

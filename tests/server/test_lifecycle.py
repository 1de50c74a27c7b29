"""Start, refusal to start, stop: as an operator sees them."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest

from everloop.store import keys
from everloop.store.database import Database
from tests.server.ask import complete
from tests.server.process import KEY, environment, free_port, scripted


def attempt(folder: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    """A start that is expected to fail."""
    chosen = {"home": str(folder / "home"), "port": free_port(), "model": "tiny", **settings}
    command = [sys.executable, "-m", "tests.server.process", json.dumps(chosen)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment(), cwd=folder
    )


def test_sigterm_lets_answers_finish_and_exits_0(tmp_path: Path) -> None:
    answers: list[str] = []
    with scripted(tmp_path) as server:

        def ask(streams: bool) -> None:
            with server.client() as http:
                body = {"model": "tiny", "prompt": "slow:50", "max_tokens": 50, "stream": streams}
                answers.append(http.post("/v1/completions", json=body).text)

        threads = [threading.Thread(target=ask, args=(streams,)) for streams in (False, True)]
        for thread in threads:
            thread.start()
        while "running{" not in (text := httpx_metrics(server.url)) or "} 2.0" not in text:
            time.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(OSError, match="refused"):  # nobody new comes in
            socket.create_connection(("127.0.0.1", server.port), timeout=5)
        for thread in threads:
            thread.join()
        assert server.process.wait(timeout=20) == 0
    assert sum("x" * 50 in text for text in answers) == 1
    assert sum(text.count('"text":"x"') == 50 and "[DONE]" in text for text in answers) == 1


def httpx_metrics(url: str) -> str:
    text = httpx2.get(f"{url}/metrics", headers={"authorization": f"Bearer {KEY}"}).text
    return "\n".join(line for line in text.splitlines() if "engine_running" in line)


@pytest.mark.parametrize("streams", [False, True])
def test_answers_longer_than_the_grace_end_with_an_error(tmp_path: Path, streams: bool) -> None:
    with scripted(tmp_path, shutdown_grace="0.3s") as server:
        raw = server.connect()
        ask = {"model": "tiny", "prompt": "slow:150", "max_tokens": 150, "stream": streams}
        body = json.dumps(ask)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        time.sleep(0.3)
        assert server.stop() == 0
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
        raw.close()
    assert answer.startswith(b"HTTP/1.1 200 " if streams else b"HTTP/1.1 503 ")
    assert b'"code":"engine_unavailable"' in answer


def test_ctrl_c_exits_0(tmp_path: Path) -> None:
    with scripted(tmp_path) as server:
        assert server.stop(signal.SIGINT) == 0


def test_a_second_server_on_the_same_home_refuses_with_the_pid(tmp_path: Path) -> None:
    with scripted(tmp_path) as server:
        second = attempt(tmp_path)
        assert second.returncode != 0
        assert f"pid {server.process.pid}" in second.stderr
        with server.client() as http:
            assert complete(http, "say:ok")["choices"][0]["text"] == "ok"


def test_a_killed_server_leaves_no_lock(tmp_path: Path) -> None:
    with scripted(tmp_path) as server:
        server.process.kill()
        server.process.wait()
    with scripted(tmp_path) as server, server.client() as http:
        assert complete(http, "say:ok")["choices"][0]["text"] == "ok"


def test_port_in_use_says_which_to_try(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        failed = attempt(tmp_path, port=port, api_key=KEY)
    assert failed.returncode != 0
    assert f"port {port} is in use: try --port" in failed.stderr


def test_a_public_address_needs_a_key_first(tmp_path: Path) -> None:
    failed = attempt(tmp_path, host="0.0.0.0")
    assert failed.returncode != 0
    assert "everloop keys create" in failed.stderr
    db = Database(tmp_path / "home")
    text, key = keys.create(db, "mine")
    with scripted(tmp_path, host="0.0.0.0", api_key=None) as server:
        headers = {"authorization": f"Bearer {text}"}
        assert httpx2.get(f"{server.url}/v1/models", headers=headers).status_code == 200
    keys.revoke(db, key.id)
    db.close()
    assert attempt(tmp_path, host="0.0.0.0").returncode != 0


def test_an_address_that_is_not_ours(tmp_path: Path) -> None:
    failed = attempt(tmp_path, host="192.0.2.1", api_key=KEY)
    assert failed.returncode != 0
    assert "Can't listen on 192.0.2.1" in failed.stderr


def test_a_model_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    failed = attempt(tmp_path, model="nothing", api_key=KEY)
    assert failed.returncode != 0
    assert "nothing" in failed.stderr
    command = [sys.executable, "-m", "everloop", "serve", "--model", "nothing", "--port"]
    env = {**environment(), "EVERLOOP_HOME": str(tmp_path / "home")}
    own = subprocess.run(
        [*command, str(free_port())], capture_output=True, text=True, env=env, timeout=60
    )
    assert own.returncode == 3
    assert "There is: " in own.stderr
    assert "org/other, tiny" in own.stderr


def test_the_first_key_is_made_once_and_told_once(tmp_path: Path) -> None:
    # The key comes out of the same call that the command line prints from.
    script = (
        "import json, sys\n"
        "from everloop.server.run import serve\n"
        "from everloop.settings import load\n"
        "from tests.server.scripted import ScriptedPool\n"
        "from everloop.store.database import Database\n"
        "from everloop.store.registry import Registry\n"
        "from pathlib import Path\n"
        "settings = load(json.loads(sys.argv[1]))\n"
        "folder = Path('tiny'); folder.mkdir(exist_ok=True)\n"
        "(folder / 'config.json').write_text('{}')\n"
        "Registry(Database(settings.home)).register('tiny', folder, 'a test')\n"
        "def told(listening):\n"
        "    print(json.dumps([listening.base_url, listening.new_key, listening.notes]))\n"
        "    sys.stdout.flush()\n"
        "serve(settings, told, engines=ScriptedPool)\n"
    )
    told = []
    for api_key in (None, None, "sk-late"):
        port = free_port()
        chosen = {"home": str(tmp_path / "home"), "port": port, "model": "tiny", "api_key": api_key}
        process = subprocess.Popen(
            [sys.executable, "-c", script, json.dumps(chosen)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=tmp_path,
        )
        assert process.stdout is not None
        with process.stdout as out:
            url, key, notes = json.loads(out.readline())
        told.append((key, notes))
        assert url == f"http://127.0.0.1:{port}/v1"
        headers = {"authorization": f"Bearer {told[0][0]}"}
        assert httpx2.get(f"{url}/models", headers=headers).status_code == 200
        process.terminate()
        assert process.wait(timeout=20) == 0
    assert told[0][0].startswith("sk-")
    assert [key for key, _ in told[1:]] == [None, None]
    assert told[0][1] == told[1][1] == []
    assert "EVERLOOP_API_KEY" in told[2][1][0]


def test_the_http_process_never_loads_torch(tmp_path: Path) -> None:
    with scripted(tmp_path) as server, server.client() as http:
        assert complete(http, "say:ok")["choices"][0]["text"] == "ok"
        maps = Path(f"/proc/{server.process.pid}/maps")
        if not maps.exists():
            pytest.skip("no /proc here")
        assert "libtorch" not in maps.read_text()


def test_server_modules_import_without_torch() -> None:
    code = (
        "import sys, everloop.server.run, everloop.tasks\n"
        "heavy = {'torch', 'transformers', 'numpy', 'alembic'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True)
    assert done.returncode == 0, done.stderr


def test_the_soft_limit_of_files_is_raised_for_the_connections(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(1200, hard if hard != resource.RLIM_INFINITY else 1200)
    with contextlib.ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, soft), hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        with scripted(tmp_path) as server:
            limits = Path(f"/proc/{server.process.pid}/limits")
            if not limits.exists():
                pytest.skip("no /proc here")
            row = next(x for x in limits.read_text().splitlines() if "open files" in x)
            assert int(row.split()[3]) >= wanted

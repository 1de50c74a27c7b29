from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from everloop.cli import checks
from everloop.settings import Settings
from everloop.store import files, keys, registry
from everloop.store.database import Database
from everloop.store.home import server_lock

from .conftest import Run


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that stands for the one in the package, with recorded digests."""
    folder = tmp_path / "package" / "everloop-small"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    sums = "".join(f"{digest}  {name}\n" for name, digest in files.folder_sums(folder).items())
    (folder / files.SUMS_FILE).write_text(sums)
    found = registry.embedded_models(folder.parent)
    monkeypatch.setattr(registry, "embedded_models", lambda *_: found)
    return folder


def statuses(run: Run, *arguments: str) -> tuple[int, dict[str, str]]:
    result = run("doctor", "--json", *arguments)
    return result.code, {row["name"]: row["status"] for row in json.loads(result.out)}


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


@pytest.mark.usefixtures("embedded")
def test_all_is_well(run: Run, home: Path) -> None:
    code, found = statuses(run, "--port", free_port())
    assert code == 0
    assert "failure" not in found.values()
    assert not home.exists()  # looking changes nothing
    db = Database(home)
    keys.create(db, "a")
    db.close()
    code, found = statuses(run, "--port", free_port())
    assert (code, found["database"], found["secret"], found["model"]) == (0, "ok", "ok", "ok")
    plain = run("doctor", "--port", free_port())
    assert "✓ database" in plain.out
    assert "\x1b" not in plain.out


def test_a_changed_model_is_found(run: Run, embedded: Path) -> None:
    (embedded / "model.safetensors").write_bytes(b"wrong")
    code, found = statuses(run, "--port", free_port())
    assert (code, found["model"]) == (1, "failure")


@pytest.mark.usefixtures("embedded")
def test_a_missing_model_is_found(run: Run) -> None:
    result = run("doctor", "--model", "nothing", "--port", free_port())
    assert result.code == 1
    assert "→ Choose one of `everloop models list` with --model" in result.out


@pytest.mark.usefixtures("embedded")
def test_a_damaged_database_and_an_open_secret_are_found(run: Run, home: Path) -> None:
    db = Database(home)
    keys.create(db, "a")
    db.close()
    (home / "secret").chmod(0o644)
    (home / "everloop.db").write_bytes(b"\0" * 8192)
    settings = Settings(home=home)
    assert checks.secret(settings).repair == f"chmod 600 {home / 'secret'}"
    assert checks.database(settings).status == "failure"


@pytest.mark.usefixtures("embedded")
def test_a_port_in_use_is_a_failure_unless_we_use_it(run: Run, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        code, found = statuses(run, "--port", port)
        assert (code, found["port"]) == (1, "failure")
        with server_lock(home):
            assert statuses(run, "--port", port) == (0, found | {"port": "ok"})


def test_too_many_threads_are_a_warning(home: Path) -> None:
    check = checks.threads(Settings(home=home, threads=4096))
    assert check.status == "warning"
    assert "EVERLOOP_THREADS=" in check.repair


def test_the_hub_is_asked_only_when_wanted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    assert checks.hub(Settings(home=home)).status == "ok"
    assert checks.hub_answers(Settings(home=home)).status == "warning"

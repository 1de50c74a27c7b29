from __future__ import annotations

import json
from pathlib import Path

import pytest

from everloop.store.database import Database
from everloop.store.registry import Registry

from .conftest import Run


@pytest.fixture
def mine(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"x" * 2_500_000)
    db = Database(home)
    Registry(db).register("mine", folder, "a folder")
    db.close()


@pytest.mark.usefixtures("mine")
def test_list_and_show(run: Run, home: Path) -> None:
    rows = {row["name"]: row for row in json.loads(run("models", "list", "--json").out)}
    assert rows["mine"]["bytes"] == 2_500_002
    assert rows["mine"]["source"] == "a folder"
    run("models", "alias", "set", "gpt-4", "mine@1")
    shown = json.loads(run("models", "show", "gpt-4", "--json").out)
    assert shown["path"] == str(home / "models" / "mine" / "1")
    assert shown["aliases"] == ["gpt-4"]
    assert "2.5 MB" in run("models", "list").out
    assert "gpt-4" in run("models", "show", "mine").out
    assert run("models", "show", "yours").code == 3


@pytest.mark.usefixtures("mine")
def test_remove_asks_first(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.readline", lambda *_: "n\n", raising=False)
    assert run("models", "remove", "mine").code == 1
    assert (home / "models" / "mine" / "1").exists()
    assert run("models", "remove", "mine", "--yes").code == 0
    assert not (home / "models" / "mine" / "1").exists()


@pytest.mark.usefixtures("mine")
def test_aliases(run: Run) -> None:
    aliases = json.loads(run("models", "alias", "list", "--json").out)
    assert aliases["default"] == "everloop-small"
    assert aliases["gpt-4"] == aliases["text-davinci-003"] == "default"
    assert run("models", "alias", "set", "best", "mine").err == "best → mine@1\n"
    assert run("models", "alias", "remove", "best").code == 0
    assert run("models", "alias", "remove", "best").code == 3
    assert run("models", "alias", "set", "best", "nothing").code == 3

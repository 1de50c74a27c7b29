"""pull, import and export as a user types them, against a hub on a real socket."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.model.hub_server import COMMIT, from_directory, serve
from tests.model.layouts import oracle
from tests.model.speaking import make_adapter, make_model

from .conftest import Run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "tiny")


def test_pull_then_export(
    run: Run, model: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(from_directory(model)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        pulled = run("pull", "org/tiny", "--json")
        assert pulled.code == 0, pulled.err
        row = json.loads(pulled.out)
        assert (row["name"], row["version"], row["kind"]) == ("org/tiny", "1", "full")
        again = run("pull", "org/tiny@v1", "--name", "mine")
        assert again.out == "mine@1\n"
        assert "everloop chat --model mine" in again.err
        missing = run("pull", "org/none")
        assert (missing.code, missing.out) == (3, "")
        assert missing.err.startswith("error: ")
        hub.broken = True
        assert run("pull", "org/tiny").code == 5
    assert run("pull", "tiny").code == 2
    assert not list((home / "downloads").rglob("*.safetensors"))
    (source,) = {
        r["source"] for r in json.loads(run("models", "list", "--json").out) if "/" in r["name"]
    }
    assert source == f"hub org/tiny@{COMMIT}"

    target = tmp_path / "out"
    exported = run("export", "org/tiny", str(target), "--dtype", "bf16", "--json")
    assert exported.code == 0, exported.err
    assert json.loads(exported.out)["max_logit_difference"] > 0
    oracle(target)
    assert run("export", "org/tiny", str(target)).code == 2  # it exists now
    assert run("export", "org/none", str(tmp_path / "x")).code == 3
    assert run("export", "mine", str(tmp_path / "x"), "--adapter").code == 2
    assert run("export", "mine", str(tmp_path / "x"), "--shard", "0").code == 2


def test_import_model_and_adapter(run: Run, model: Path, tmp_path: Path) -> None:
    imported = run("import", str(model))
    assert (imported.code, imported.out) == (0, "tiny@1\n")
    assert "It says: " in imported.err
    adapter = make_adapter(tmp_path / "tuned", model)
    refused = run("import", str(adapter))
    assert refused.code == 2
    assert "--base" in refused.err
    done = run("import", str(adapter), "--base", "tiny", "--json")
    assert json.loads(done.out)["kind"] == "lora"
    assert run("export", "tuned", str(tmp_path / "adapter"), "--adapter").code == 0
    assert (tmp_path / "adapter" / "adapter_config.json").exists()
    assert run("export", "tuned", str(tmp_path / "merged")).code == 0
    oracle(tmp_path / "merged")


def test_import_says_what_is_wrong(run: Run, model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    refused = run("import", str(model))
    assert refused.code == 1
    assert refused.err.count("\n") == 1
    assert "is a pickle" in refused.err

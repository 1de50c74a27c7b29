from __future__ import annotations

import json
from pathlib import Path

import pytest

from everloop.settings import SPECS

from .conftest import Run


def test_show_prints_value_and_origin(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    (home / "config.toml").write_text("max_n = 4")
    monkeypatch.setenv("EVERLOOP_API_KEY", "hush")
    rows = [line.split("\t") for line in run("config", "show", "--port", "9000").out.splitlines()]
    table = {name: (value, origin) for name, value, origin in rows}
    assert set(SPECS) <= set(table)
    assert table["port"] == ("9000", "flag --port")
    assert table["max_n"] == ("4", f"file {home / 'config.toml'}")
    assert table["home"] == (str(home), "environment EVERLOOP_HOME")
    assert table["host"] == ("127.0.0.1", "default")
    assert table["api_key"] == ("set (hidden)", "environment EVERLOOP_API_KEY")
    as_json = json.loads(run("config", "show", "--json").out)
    assert as_json["max_n"] == {"value": 4, "origin": f"file {home / 'config.toml'}"}
    assert "hush" not in json.dumps(as_json)


def test_a_variable_without_effect_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERLOOP_PROT", "9000")
    assert "EVERLOOP_PROT is no setting and has no effect. Did you mean EVERLOOP_PORT?" in (
        run("config", "show").err
    )

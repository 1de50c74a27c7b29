"""The command itself, as far as it goes without measuring."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from bench.peers import environment
from bench.peers.measures import ROWS

SCRIPT = Path(__file__).parents[2] / "bench" / "compare.py"


def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)


def test_the_rows_are_listed() -> None:
    listed = compare("--list", "--quick").stdout.splitlines()
    assert [line.split()[0] for line in listed] == [m.name for m in ROWS]
    assert compare("--list", "--only", "read-*").stdout.count("\n") == 2


def test_an_unknown_row_is_refused() -> None:
    done = compare("--only", "read-7b")
    assert done.returncode == 1
    assert "--only read-7b: no such row. --list prints them all." in done.stderr


def test_the_home_of_the_peers_can_be_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERLOOP_BENCH_HOME", str(tmp_path / "peers"))
    assert environment.home() == tmp_path / "peers"
    monkeypatch.delenv("EVERLOOP_BENCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert environment.home() == tmp_path / "everloop" / "bench-peers"


def test_what_can_not_be_installed_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(environment.Unavailable, match="--sides everloop"):
        environment.ensure(tmp_path)
    assert not (tmp_path / "installed.json").exists()

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import everloop
from everloop.cli.main import COMMANDS, load

from .conftest import Run
from .terminal import shown

HEAVY = ("torch", "sqlalchemy", "alembic", "fastapi", "transformers", "numpy", "httpx2", "uvicorn")


def on_a_terminal(*arguments: str, **environment: str) -> str:
    return shown("-m", "everloop", *arguments, **environment)


def test_help_names_every_command_and_loads_none() -> None:
    code = f"""
import sys
sys.argv = ["everloop", "--help"]
from everloop.cli.main import main
try:
    main()
finally:
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, lazy in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert lazy.help in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_explains_itself(name: str, run: Run) -> None:
    result = run(name, "--help")
    assert result.code == 0
    assert result.out.startswith(f"Usage: everloop {name}")
    assert load(name).help


@pytest.mark.parametrize("module", sorted({lazy.target for lazy in COMMANDS.values()}))
def test_explaining_a_command_loads_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, everloop.cli.{module.partition(':')[0]}\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_error_is_one_line_and_its_exit_code(run: Run) -> None:
    missing = run("keys", "revoke", "nobody")
    assert (missing.code, missing.out) == (3, "")
    assert missing.err == "error: No active key `nobody`. `everloop keys list` shows them.\n"
    bad = run("config", "show", "--port", "x")
    assert bad.code == 2
    assert bad.err.startswith("error: Setting `port` is 'x' (from flag --port)")
    assert run("nonsense").code == 2
    assert run("keys", "create").code == 2


def test_version_comes_three_ways(run: Run) -> None:
    assert run("--version").out == everloop.__version__ + "\n"
    assert run("version").out == everloop.__version__ + "\n"
    assert json.loads(run("version", "--json").out)["everloop"] == everloop.__version__


def test_colour_is_for_terminals_and_for_those_who_want_it(run: Run) -> None:
    assert "\x1b[" in on_a_terminal("--help")
    assert "\x1b[" in on_a_terminal("doctor")
    assert "\x1b[3" not in on_a_terminal("doctor", NO_COLOR="1")
    assert "\x1b" not in run("--help").out


def test_tables_are_for_terminals_too(run: Run) -> None:
    run("keys", "create", "笔记本 [bold]")
    shown = on_a_terminal("keys", "list", NO_COLOR="1")
    assert "笔记本 [bold]" in shown
    assert "───" in shown
    header, row = run("keys", "list").out.splitlines()
    assert header.split("\t")[:2] == ["id", "name"]
    assert row.split("\t")[1] == "笔记本 [bold]"


def test_a_closed_pipe_is_no_defect() -> None:
    script = f"{sys.executable} -m everloop models alias list | head -n 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.stdout == "alias\ttarget\n"
    assert "Traceback" not in done.stderr

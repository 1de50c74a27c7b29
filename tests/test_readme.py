"""The README's commands, run as they stand: against a real server with the embedded model."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import sdk
from tests.server.process import KEY, Running, environment, free_port, started

ROOT = Path(__file__).parents[1]
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
BLOCK = re.compile(r"^<!-- run(?:: (?P<how>[^\n]*))? -->\n```(?P<language>\w+)\n(?P<code>.*?)^```$",
                   re.DOTALL | re.MULTILINE)  # fmt: skip


@dataclass(frozen=True)
class Block:
    how: str
    language: str
    code: str


def blocks(page: Path) -> list[Block]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(match["how"] or "", match["language"], match["code"]) for match in found]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the command `everloop` of this very checkout, to put on PATH."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "everloop"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m everloop "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: beside a copy of the two pages, as in a clone."""
    target = tmp_path_factory.mktemp("readme")
    for page in (README, CHINESE):
        shutil.copy(page, target)
    return target


@pytest.fixture(scope="module")
def server(shell: Path, folder: Path) -> Iterator[Running]:
    port = free_port()
    env = {"PORT": str(port), "EVERLOOP_HOME": str(folder / "home"), "EVERLOOP_API_KEY": KEY}
    with started([str(shell / "everloop"), "serve"], port, folder, **env) as running:
        yield running


def run(block: Block, server: Running, shell: Path, folder: Path) -> str:
    url = f"{server.url}/v1"
    if block.how.startswith("openai "):
        return sdk.run(block.how.split()[1], block.code, url=url, key=KEY)
    assert block.language == "bash"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.code],
        env={
            **environment(),
            "PATH": f"{shell}{os.pathsep}{os.environ['PATH']}",
            "EVERLOOP_HOME": str(folder / "home"),
            "PORT": str(server.port),
            "OPENAI_BASE_URL": url,
            "OPENAI_API_KEY": KEY,
        },
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{block.code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def marked(slow: bool) -> list[Block]:
    return [block for block in blocks(README) if (block.how == "slow") == slow]


def title(block: Block) -> str:
    return block.code.splitlines()[0][:40]


def wait_for(running: Running, text: str) -> None:
    """Waits until the server has said so; it answers a moment before."""
    deadline = time.monotonic() + 20
    while text not in running.log.read_text():
        assert time.monotonic() < deadline, running.log.read_text()
        time.sleep(0.05)


def test_both_languages_show_the_same_commands() -> None:
    assert len(blocks(README)) >= 6
    assert blocks(README) == blocks(CHINESE)
    for page in (README, CHINESE):  # a marker without a block, or a block that no test runs
        text = page.read_text(encoding="utf-8")
        assert text.count("<!-- run") == len(blocks(page))
        assert len(re.findall(r"^```(?:bash|python)$", text, re.MULTILINE)) == len(blocks(page))


@pytest.mark.parametrize("block", marked(slow=False), ids=title)
def test_commands(block: Block, server: Running, shell: Path, folder: Path) -> None:
    assert run(block, server, shell, folder).strip()


@pytest.mark.slow
@pytest.mark.parametrize("block", marked(slow=True), ids=title)
def test_longer_commands(block: Block, server: Running, shell: Path, folder: Path) -> None:
    assert run(block, server, shell, folder).strip()


def test_make_serve_shows_a_new_homes_key_once(shell: Path, tmp_path: Path) -> None:
    # Installed already, as the stamps say: what is tested is the start, not pip.
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "hatch_build.py").touch()
    shutil.copy(shell / "everloop", tmp_path / ".venv" / "bin")
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / ".venv" / ".installed").touch()
    port = free_port()
    env = {"PORT": str(port), "EVERLOOP_HOME": str(tmp_path / "home")}
    with started(["make", "serve"], port, tmp_path, **env) as running:
        wait_for(running, "Paste into another terminal:")
        shown = running.log.read_text()
        assert f"http://127.0.0.1:{port}/v1" in shown
        (key,) = set(re.findall(r"sk-[\w-]{48}", shown))
        with running.client() as http:
            answer = http.get("/v1/models", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 200
        assert "gpt-4" in [model["id"] for model in answer.json()["data"]]
    with started(["make", "serve"], port, tmp_path, EVERLOOP_API_KEY="late", **env) as running:
        wait_for(running, "EVERLOOP_API_KEY is none of this home's keys")
        assert key not in running.log.read_text()


def test_the_owners_key_is_not_printed(server: Running) -> None:
    wait_for(server, "yours, from environment EVERLOOP_API_KEY")
    assert KEY not in server.log.read_text()

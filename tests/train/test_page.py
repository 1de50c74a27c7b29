"""The commands of docs/training.md, run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^<!-- run -->\n```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = ("training.md", "training.zh-CN.md")


def blocks(name: str) -> list[str]:
    return BLOCK.findall((DOCS / name).read_text(encoding="utf-8"))


def test_both_languages_show_the_same_commands() -> None:
    assert len(blocks(PAGES[0])) == 3
    assert blocks(PAGES[0]) == blocks(PAGES[1])


@pytest.mark.slow
def test_commands(tmp_path: Path, home: Path) -> None:
    for name in PAGES:
        shutil.copy(DOCS / name, tmp_path)
    (tmp_path / "bin").mkdir()
    for name, arguments in (("everloop", "-m everloop"), ("python", "")):
        command = tmp_path / "bin" / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        command.chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    for block in blocks(PAGES[0]):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            env={**os.environ, "PATH": path, "EVERLOOP_HOME": str(home), "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "shared" / "model" / "model.safetensors").is_file()

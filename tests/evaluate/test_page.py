"""docs/evaluation.md: its Python runs, its commands parse, its tables name what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from everloop.cli.main import load
from everloop.evaluate.suites import KINDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "evaluation.md", ROOT / "docs" / "evaluation.zh-CN.md"]


def test_the_python_runs(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes = [re.findall(r"```python\n(.*?)```", p.read_text("utf-8"), re.S) for p in PAGES]
    assert codes[0] == codes[1]
    (code,) = codes[0]
    exec(code.replace("work/tuned/model", str(model_dir)), {"__name__": "page"})
    _, score, label, _ = capsys.readouterr().out.rsplit("\n", 3)
    assert -1 <= float(score) <= 1
    assert label in ("sports", "politics")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_and_fields_are_real(page: Path) -> None:
    text = page.read_text("utf-8")
    command = load("evaluate")
    lines = re.findall(r"^everloop evaluate (.*)$", text, re.M)
    assert len(lines) == 6
    for line in lines:
        command.make_context("evaluate", shlex.split(line))
    tasks = {name for row in re.findall(r"^\| (`.*?) \|", text, re.M) for name in row.split()}
    assert {name.strip("`") for name in tasks} >= KINDS.keys()
    for kind in KINDS.values():
        assert all(f"`{field}`" in text for field in kind.needs)

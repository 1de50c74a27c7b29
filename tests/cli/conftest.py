from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from everloop.cli.main import main


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `everloop ARGUMENTS` in this process, off a terminal."""

    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["everloop", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        code = left.value.code
        out, err = capsys.readouterr()
        return Result(code if isinstance(code, int) else int(code is not None), out, err)

    return call

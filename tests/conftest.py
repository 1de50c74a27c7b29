"""What every test gets: a home of its own, and nothing from the machine's environment."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# An example's time says how busy the machine is, nothing of the code. `make test` tries the same
# examples each time, so that it says what a change broke; `make fuzz` looks for new ones.
hypothesis.settings.register_profile("everloop", deadline=None, derandomize=True)
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("everloop")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty EVERLOOP_HOME under tmp_path; settings and keys of the user's own are hidden."""
    for name in list(os.environ):
        if name.startswith(("EVERLOOP_", "OPENAI_", "HF_")) or name == "PORT":
            monkeypatch.delenv(name)
    path = tmp_path / "home"
    monkeypatch.setenv("EVERLOOP_HOME", str(path))
    return path

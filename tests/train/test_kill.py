"""A run that is interrupted, killed, or finds the disk full ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from everloop.model import checkpoint as model_files
from everloop.model.safetensors import load_tensors
from everloop.train import run
from everloop.train.checkpoint import found, read_state

from .command import command, forked
from .small import assert_same, metrics, small_options

STEPS = 12


def silent(_text: str) -> None: ...


def arguments(data: Path, model: Path, out: Path, steps: int = STEPS) -> list[str | Path]:
    """The run below as a command that writes a checkpoint after every step."""
    return [
        "pretrain", data, "--base", model, "--out", out, "--tokens", str(256 * steps),
        "--sequence-length", "32", "--batch-tokens", "256", "--precision", "fp32",
        "--save-dtype", "fp32", "--checkpoint-minutes", "1e-9",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(
    text_data: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    options = small_options(tokens=256 * STEPS)
    assert run.pretrain(text_data, model_dir, out, options, silent, model_dir).finished
    return out


def assert_loadable(out: Path) -> None:
    """Every checkpoint that shows is complete."""
    for checkpoint in found(out):
        assert read_state(checkpoint).step == int(checkpoint.name[5:])
        model_files.load(checkpoint / "model")
        assert load_tensors(checkpoint / "optimizer.safetensors") or not read_state(checkpoint).step


def killed_at(
    moments: list[int], uninterrupted: Path, data: Path, model: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    died, seen = 0, [0]
    for moment in moments:
        process = forked(*arguments(data, model, out), log=log, die_at=moment)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), log.read_text()
        assert_loadable(out)
        last = found(out)
        seen.append(read_state(last[-1]).step if last else 0)
        assert seen[-1] >= seen[-2]  # nothing that was saved is lost
        assert (out / "model").exists() == (process.exitcode == 0) or seen[-1] == STEPS
        died += process.exitcode != 0
        if (out / "model").exists():
            break
    assert died > 3
    if not (out / "model").exists():
        process = forked(*arguments(data, model, out), log=log)
        process.join()
        assert process.exitcode == 0, log.read_text()
    assert_same(uninterrupted, out)
    assert metrics(uninterrupted) == metrics(out)
    names = [p.name for p in (*out.iterdir(), *(out / "checkpoints").iterdir())]
    assert not [n for n in names if "partial" in n or n.endswith((".tmp", ".new"))]


def test_killed_at_many_moments(
    uninterrupted: Path, text_data: Path, model_dir: Path, tmp_path: Path
) -> None:
    killed_at([2, 9, 23, 40, 61, 90], uninterrupted, text_data, model_dir, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 11])
def test_killed_twenty_times(
    first: int, uninterrupted: Path, text_data: Path, model_dir: Path, tmp_path: Path
) -> None:
    """At another place of writing a checkpoint each time."""
    moments = [10 + (7 * i + first) % 30 for i in range(20)]
    killed_at(moments, uninterrupted, text_data, model_dir, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_the_command_goes_on(
    number: signal.Signals, text_data: Path, model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    steps = 2000
    long = arguments(text_data, model_dir, out, steps)[:-2]
    process = subprocess.Popen(
        command(*long),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 90
    while not (out / "metrics.jsonl").exists() or not metrics(out):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 130, said
    done = read_state(found(out)[-1]).step
    assert 0 < done < steps
    assert f"Stopped after step {done}; the same command goes on from there." in said
    assert f"step 1/{steps}  loss " in said  # plain lines off a terminal
    assert "\x1b" not in said
    assert not (out / "model").exists()
    shorter = small_options(tokens=256 * (done + 2))
    assert run.pretrain(text_data, model_dir, out, shorter, silent, model_dir).finished
    assert [row["step"] for row in metrics(out) if "loss" in row] == list(range(1, done + 3))


def test_a_full_disk_leaves_the_last_checkpoint_and_one_line(
    uninterrupted: Path, text_data: Path, model_dir: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    first = forked(*arguments(text_data, model_dir, out), log=log, die_at=60)
    first.join()
    before = read_state(found(out)[-1]).step
    assert 0 < before < STEPS
    # Room for metrics and plan, not for the weights.
    process = forked(*arguments(text_data, model_dir, out), log=log, largest_file=20_000)
    process.join()
    said = log.read_text().splitlines()
    assert process.exitcode == 1, said
    assert said[-1].startswith("error: ")
    assert "no space left" in said[-1]
    assert not any("Traceback" in line for line in said)
    assert read_state(found(out)[-1]).step == before
    assert_loadable(out)
    assert not list((out / "checkpoints").glob(".*"))
    process = forked(*arguments(text_data, model_dir, out), log=log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert_same(uninterrupted, out)

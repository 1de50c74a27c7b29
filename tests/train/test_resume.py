"""Stopping and going on equals never having stopped, bit for bit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from everloop.errors import InvalidRequest
from everloop.train import run, trainer
from everloop.train.checkpoint import KEEP, found, read_state
from everloop.train.options import Options

from .small import assert_same, metrics, small_options, tuning_options


def silent(_text: str) -> None: ...


def stopping_after(steps: int) -> type[trainer.Trainer]:
    """A trainer that is asked to stop after that many steps, as by Ctrl-C."""

    class Stopping(trainer.Trainer):
        def train(self) -> trainer.Outcome:
            last = self.done + steps
            self.stop = lambda: self.done >= last
            return super().train()

    return Stopping


@pytest.fixture(scope="module")
def uninterrupted(
    text_data: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run over several passes of the data, with checks on the way."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    options = small_options(tokens=256 * 40, validate_steps=10)
    assert run.pretrain(text_data, model_dir, out, options, silent, model_dir).finished
    return out


def test_the_run_passes_over_the_data_more_than_once(uninterrupted: Path) -> None:
    assert read_state(found(uninterrupted)[-1]).cursor.epoch >= 1


@pytest.mark.parametrize("steps", [1, 13])
def test_resumed_equals_uninterrupted(
    steps: int,
    uninterrupted: Path,
    text_data: Path,
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = small_options(tokens=256 * 40, validate_steps=10)
    monkeypatch.setattr(run, "Trainer", stopping_after(steps))
    parts = 0
    for _ in range(60):
        outcome = run.pretrain(text_data, model_dir, tmp_path / "out", options, silent, model_dir)
        parts += 1
        assert outcome.finished or len(found(tmp_path / "out")) <= KEEP
        if outcome.finished:
            break
        if parts == 5:
            monkeypatch.setattr(run, "Trainer", stopping_after(17))
    assert parts > 3
    assert_same(uninterrupted, tmp_path / "out")
    assert metrics(uninterrupted) == metrics(tmp_path / "out")
    ours, theirs = (
        json.loads((p / "model" / "run.json").read_text("utf-8"))
        for p in (uninterrupted, tmp_path / "out")
    )
    for name in ("targets", "tokens", "flops", "final_loss", "validation"):
        assert ours[name] == theirs[name]
    assert (uninterrupted / "model" / "model.safetensors").read_bytes() == (
        tmp_path / "out" / "model" / "model.safetensors"
    ).read_bytes()


def test_killed_before_the_result_was_written(
    uninterrupted: Path, text_data: Path, model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(uninterrupted, out)
    before = json.loads((out / "model" / "run.json").read_text("utf-8"))
    shutil.rmtree(out / "model")
    leftover = out / "checkpoints" / ".step-00000041.abc.partial"
    leftover.mkdir()
    options = small_options(tokens=256 * 40, validate_steps=10)
    assert run.pretrain(text_data, model_dir, out, options, silent, model_dir).finished
    after = json.loads((out / "model" / "run.json").read_text("utf-8"))
    assert {**before, "finished": 0, "seconds": 0} == {**after, "finished": 0, "seconds": 0}
    assert not leftover.exists()


def test_the_length_may_change(
    text_data: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, said = tmp_path / "out", list[str]()
    options = small_options()
    with monkeypatch.context() as patch:
        patch.setattr(run, "Trainer", stopping_after(4))
        run.pretrain(text_data, model_dir, out, options, silent, model_dir)
    longer = replace(options, tokens=256 * 12)
    outcome = run.pretrain(text_data, model_dir, out, longer, said.append, model_dir)
    assert (outcome.finished, outcome.steps) == (True, 12)
    assert any("2,560 to 3,072 tokens" in line for line in said)
    shutil.rmtree(out / "model")
    shorter = replace(options, tokens=256 * 5)  # shorter than what is done: it ends where it is
    outcome = run.pretrain(text_data, model_dir, out, shorter, silent, model_dir)
    assert (outcome.finished, outcome.steps) == (True, 12)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"matrix_lr": 0.5}, "matrix_lr"),
        ({"sequence_length": 64}, "sequence_length"),
        ({"batch_tokens": 1024}, "batch_tokens"),
        ({"micro_tokens": 128}, "micro_rows"),
        ({"seed": 3}, "seed"),
        ({"precision": "bf16"}, "precision"),
        ({"size": "d4"}, "num_hidden_layers"),
        ({"minutes": 3.0}, "minutes"),
        ({"lora_rank": 4}, "kind"),
        ({"context_length": 64}, "context_length"),
    ],
)
def test_another_plan_is_refused(
    changes: dict[str, object],
    param: str,
    begun: Path,
    example_data: Path,
    model_dir: Path,
) -> None:
    options = replace(tuning_options(), **changes)  # type: ignore[arg-type]
    before = metrics(begun)
    with pytest.raises(InvalidRequest) as error:
        run.finetune(model_dir, example_data, begun, options, silent)
    assert error.value.param == param
    assert param in error.value.message
    assert metrics(begun) == before


@pytest.fixture(scope="module")
def begun(example_data: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuning run that was interrupted."""
    out = tmp_path_factory.mktemp("runs") / "begun"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "Trainer", stopping_after(2))
        run.finetune(model_dir, example_data, out, tuning_options(), silent)
    return out


def test_other_data_is_refused(
    begun: Path, text_data: Path, example_data: Path, model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(begun, out)
    with pytest.raises(InvalidRequest) as error:
        run.finetune(model_dir, text_data, out, tuning_options(), silent)
    assert error.value.param == "data"
    # A plan of an earlier version doesn't say which data: the checkpoint does.
    value = json.loads((out / "plan.json").read_text("utf-8"))
    for name in ("data", "kind", "lora_rank", "dial"):
        del value[name]
    (out / "plan.json").write_text(json.dumps(value), "utf-8")
    with pytest.raises(InvalidRequest, match="trained on other data"):
        run.finetune(model_dir, text_data, out, tuning_options(), silent)
    assert run.finetune(model_dir, example_data, out, Options(), silent).finished


def test_a_broken_checkpoint_is_named(
    begun: Path, example_data: Path, model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(begun, out)
    (found(out)[-1] / "state.json").write_text("{")
    with pytest.raises(InvalidRequest, match=r"step-00000002 can't be resumed .*: remove it"):
        run.finetune(model_dir, example_data, out, tuning_options(), silent)

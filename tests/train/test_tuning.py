"""Tuning all weights or adapters: it learns, goes on bit for bit, and loads where it should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from everloop.errors import InvalidRequest
from everloop.model import checkpoint as model_files
from everloop.model import lora
from everloop.model.safetensors import load_tensors
from everloop.train import run
from everloop.train.options import Options

from .small import assert_same, metrics, tuning_options
from .test_resume import stopping_after


def silent(_text: str) -> None: ...


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_it_learns_and_goes_on_bit_for_bit(
    rank: int,
    example_data: Path,
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = tuning_options(
        tokens=512 * 30, lora_rank=rank, matrix_lr=0.02, scalar_lr=0.02, seed=4
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    said = list[str]()
    outcome = run.finetune(model_dir, example_data, whole, options, said.append)
    assert any("longer than --sequence-length 128 and are left out" in line for line in said)
    losses = [row["loss"] for row in metrics(whole) if "loss" in row]
    assert sum(losses[-5:]) < (0.999 if rank else 0.95) * sum(losses[:5])
    assert outcome.final_loss == losses[-1]
    assert outcome.validation.keys() == {"bpb_other"}
    monkeypatch.setattr(run, "Trainer", stopping_after(11))
    again = tuning_options(
        tokens=512 * 30, lora_rank=rank, matrix_lr=0.02, scalar_lr=0.02
    )  # without the seed: the plan remembers it
    while not run.finetune(model_dir, example_data, parts, again if (parts / "plan.json").exists()
                           else options, silent).finished:  # fmt: skip
        continue
    assert_same(whole, parts)
    assert metrics(whole) == metrics(parts)


def test_only_what_is_tuned_changes(example_data: Path, model_dir: Path, tmp_path: Path) -> None:
    options = tuning_options(tokens=512 * 3)
    base = load_tensors(model_dir / "model.safetensors")
    run.finetune(model_dir, example_data, tmp_path / "full", options, silent)
    _, full = model_files.load(tmp_path / "full" / "model", dtype=None)
    for name, value in full.state_dict().items():
        assert value.dtype == torch.float32
        assert not torch.equal(value, base[name]), name
    options = tuning_options(tokens=512 * 3, lora_rank=2)
    run.finetune(model_dir, example_data, tmp_path / "lora", options, silent)
    folder = tmp_path / "lora" / "model"
    assert not (folder / "model.safetensors").exists()
    _, merged = lora.load_merged(folder, model_dir)
    changed = {n for n, v in merged.state_dict().items() if not torch.equal(v, base[n])}
    assert changed
    assert all(n.endswith("_proj.weight") for n in changed)
    record = json.loads((folder / "run.json").read_text("utf-8"))
    assert record["kind"] == "lora"
    assert record["plan"]["steps"] == 3


def test_the_mask_decides_what_is_learnt(
    example_data: Path, model_dir: Path, tmp_path: Path
) -> None:
    """Questions give no loss: far fewer targets than tokens, and their count is recorded."""
    outcome = run.finetune(model_dir, example_data, tmp_path / "out", tuning_options(), silent)
    assert 0.2 * 5120 < outcome.targets < 0.7 * 5120


def test_epochs_are_passes_over_the_data(
    example_data: Path, model_dir: Path, tmp_path: Path
) -> None:
    options = Options(epochs=0.5, sequence_length=128, batch_tokens=512, precision="fp32")
    run.finetune(model_dir, example_data, tmp_path / "out", options, silent)
    plan = json.loads((tmp_path / "out" / "plan.json").read_text("utf-8"))["plan"]
    manifest = json.loads((example_data / "manifest.json").read_text("utf-8"))["splits"]["train"]
    assert plan["tokens"] == int(0.5 * (manifest["tokens"] - manifest["documents"]))


def test_a_finished_run_is_left_alone(example_data: Path, model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "model").mkdir(parents=True)
    with pytest.raises(InvalidRequest, match="is finished") as error:
        run.finetune(model_dir, example_data, tmp_path / "out", tuning_options(), silent)
    assert error.value.param == "out"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_compiled_training_is_the_same_training(
    text_data: Path, model_dir: Path, tmp_path: Path
) -> None:
    for name, compiled in (("plain", False), ("compiled", True)):
        options = tuning_options(tokens=512 * 3, compile=compiled)
        run.pretrain(text_data, model_dir, tmp_path / name, options, silent, model_dir)
    for one, other in zip(metrics(tmp_path / "plain"), metrics(tmp_path / "compiled"), strict=True):
        if "loss" in one:
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
    plain, compiled = (model_files.load(tmp_path / n / "model")[1] for n in ("plain", "compiled"))
    assert plain.state_dict().keys() == compiled.state_dict().keys()

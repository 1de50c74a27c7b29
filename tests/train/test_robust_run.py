"""Runs with loss terms against noise, or noise in their examples: resumed bit for bit, and told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from everloop.cli.training import packed
from everloop.errors import InvalidRequest
from everloop.train import run
from everloop.train.distributed import Processes
from everloop.train.options import Options
from everloop.train.planning import plan_tuning
from everloop.train.robust import parse

from .conftest import write_rows
from .small import assert_same, metrics, tuning_options
from .test_resume import stopping_after


def silent(_text: str) -> None: ...


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
@pytest.mark.parametrize("robust", ["neftune=5,rdrop=1", "dropout=0.1,vat=1", "freelb=2"])
def test_resumed_equals_uninterrupted(
    robust: str,
    rank: int,
    example_data: Path,
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = tuning_options(tokens=512 * 5, robust=robust, seed=2, lora_rank=rank)
    whole, parts, said = tmp_path / "whole", tmp_path / "parts", list[str]()
    assert run.finetune(model_dir, example_data, whole, options, said.append).finished
    assert any("against noise" in text for text in said)
    monkeypatch.setattr(run, "Trainer", stopping_after(2))
    for _ in range(3):
        finished = run.finetune(model_dir, example_data, parts, options, silent).finished
    assert finished
    assert_same(whole, parts)
    assert metrics(whole) == metrics(parts)
    terms = [row["terms"] for row in metrics(whole) if "terms" in row]
    assert len(terms) == 5
    assert all(t > 0 for t in terms) or robust.startswith("freelb")
    record = json.loads((whole / "model" / "run.json").read_text("utf-8"))
    assert parse(record["plan"]["robust"]) == parse(robust)
    assert record["tokens"] == 512 * 5


def test_the_cost_is_part_of_the_budget(
    example_data: Path, model_dir: Path, tmp_path: Path
) -> None:
    from everloop.data.pack import PackedDataset
    from everloop.model.config import ModelConfig

    config, data = ModelConfig.load(model_dir), PackedDataset(example_data, "train")
    found = {}
    for robust in ("", "freelb=3"):
        options = Options(
            flops=3e9, robust=robust, precision="fp32", sequence_length=128, batch_tokens=512
        )
        plan, _ = plan_tuning(config, data, "finetune", options, Processes(), silent)
        found[robust] = plan.tokens
    assert found["freelb=3"] == pytest.approx(found[""] / 3, abs=1)


@pytest.fixture(scope="module")
def begun(example_data: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "begun"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "Trainer", stopping_after(1))
        run.finetune(model_dir, example_data, out, tuning_options(robust="vat=1"), silent)
    return out


def test_other_terms_are_refused_and_none_means_the_same(
    begun: Path, example_data: Path, model_dir: Path
) -> None:
    for robust in ("vat=2", "", "rdrop=1"):
        with pytest.raises(InvalidRequest, match="robust") as caught:
            run.finetune(model_dir, example_data, begun, tuning_options(robust=robust), silent)
        assert caught.value.param == "robust"
    with pytest.raises(InvalidRequest, match="--compile") as caught:
        run.finetune(model_dir, example_data, begun, tuning_options(compile=True), silent)
    assert caught.value.param == "robust"
    assert run.finetune(model_dir, example_data, begun, tuning_options(), silent).finished


def test_exit_loss_and_robust_exclude_each_other(
    example_data: Path, model_dir: Path, tmp_path: Path
) -> None:
    options = replace(tuning_options(robust="vat=1"), exit_loss=0.5)
    with pytest.raises(InvalidRequest, match="exit-loss") as caught:
        run.finetune(model_dir, example_data, tmp_path / "out", options, silent)
    assert caught.value.param == "robust"


def test_noise_goes_into_rows_that_are_packed_now(model_dir: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 60)
    manifests = {}
    for noise in (None, 0.5):
        folder = packed(rows, model_dir, tmp_path / str(noise), noise)
        manifests[noise] = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifests[None]["sources"][0]["noisy"] == 0
    assert 0 < manifests[0.5]["sources"][0]["noisy"] < 45  # answers repeat most of their words
    assert manifests[0.5]["sources"][0]["noise"] == 0.5


def test_noise_that_can_not_be_is_refused(
    example_data: Path, model_dir: Path, tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("Some text.\n", encoding="utf-8")
    for data, noise, message in (
        (example_data, 0.5, "packed already"),
        (texts, 0.5, "texts only"),
        (texts, 1.5, "0…1"),
    ):
        with pytest.raises(InvalidRequest, match=message) as caught:
            packed(data, model_dir, tmp_path / "out", noise)
        assert caught.value.param == "noise"

"""Two processes under torchrun train the same model as one, whole or sharded by FSDP2."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from everloop.errors import InvalidRequest
from everloop.train import run
from everloop.train.checkpoint import found, read_state

from .command import everloop
from .small import final, metrics, small_options, tuning_options


def silent(_text: str) -> None: ...


def close(one: Path, other: Path) -> None:
    """Sums over processes are taken in another order: a few last digits differ."""
    a, b = final(one), final(other)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)
    for row, theirs in zip(metrics(one), metrics(other), strict=True):
        assert row["step"] == theirs["step"]
        if "loss" in row:
            assert row["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


@pytest.fixture(scope="module")
def alone(text_data: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps in one process."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    options = small_options(tokens=256 * 4)
    assert run.pretrain(text_data, model_dir, out, options, silent, model_dir).finished
    return out


@pytest.mark.parametrize("how", [[], ["--fsdp"]], ids=["replicated", "fsdp"])
def test_two_processes_are_one(
    how: list[str], alone: Path, text_data: Path, model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = [
        "pretrain", text_data, "--base", model_dir, "--out", out, "--tokens", "1024",
        "--sequence-length", "32", "--batch-tokens", "256", "--precision", "fp32",
        "--save-dtype", "fp32", "--micro-tokens", "64",
    ]  # fmt: skip
    done = everloop(*arguments, *how, processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("is ready") == 1  # only one of them speaks
    assert done.stderr.count("step 1/4 ") == 1
    close(alone, out)
    # On in one process: the checkpoint knows nothing of how many wrote it.
    more = small_options(tokens=256 * 8)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for source, target in ((out, ours), (alone, theirs)):
        shutil.copytree(source, target)
        shutil.rmtree(target / "model")
    # It remembers what fits in memory at once, which here differs.
    small = small_options(tokens=256 * 8, micro_tokens=64)
    run.pretrain(text_data, model_dir, ours, small, silent, model_dir)
    run.pretrain(text_data, model_dir, theirs, more, silent, model_dir)
    assert read_state(found(ours)[-1]).step == 8
    close(theirs, ours)


@pytest.mark.slow
@pytest.mark.parametrize("how", [[], ["--fsdp"]], ids=["replicated", "fsdp"])
def test_adapters_on_two_processes_go_on(
    how: list[str], example_data: Path, model_dir: Path, tmp_path: Path
) -> None:
    """From two processes to one and back to two."""
    out = tmp_path / "out"
    arguments = [
        "finetune", model_dir, example_data, "--out", out, "--lora", "4", "--sequence-length",
        "128", "--batch-tokens", "512", "--precision", "fp32",
    ]  # fmt: skip
    options = tuning_options(lora_rank=4, tokens=512 * 4)
    run.finetune(model_dir, example_data, tmp_path / "alone", options, silent)
    for tokens in ("1024", "2048"):
        shutil.rmtree(out / "model", ignore_errors=True)
        done = everloop(*arguments, "--tokens", tokens, *how, processes=2)
        assert done.returncode == 0, done.stderr
    assert read_state(found(out)[-1]).step == 4
    alone, ours = final(tmp_path / "alone"), final(out)
    assert alone.keys() == ours.keys()
    for name in alone:
        assert alone[name].shape == ours[name].shape


def test_fsdp_alone_is_refused(text_data: Path, model_dir: Path, tmp_path: Path) -> None:
    options = small_options(fsdp=True)
    with pytest.raises(InvalidRequest, match="torchrun") as error:
        run.pretrain(text_data, model_dir, tmp_path / "out", options, silent, model_dir)
    assert error.value.param == "fsdp"

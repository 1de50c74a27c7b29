"""Training with an exit loss: what is learnt, resumed exactly, and when tokens may leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from everloop.data.pack import PackedDataset
from everloop.engine.native.backend import Exit, Rows
from everloop.engine.native.eager import EagerBackend
from everloop.engine.native.runner import Runner
from everloop.errors import InvalidRequest
from everloop.model import checkpoint
from everloop.train import calibrate, exits, loss, run
from everloop.train.loader import IGNORE, Loader

from .small import CONTEXT, assert_same, metrics, small_config, small_options, tuning_options
from .test_resume import stopping_after
from .test_step import CPU, Random, lively, trainer


def silent(_text: str) -> None: ...


@pytest.mark.parametrize(
    ("depth", "layers"), [(1, ()), (2, (1,)), (3, (1, 2)), (4, (2, 3)), (28, (14, 21))]
)
def test_half_and_three_quarters(depth: int, layers: tuple[int, ...]) -> None:
    assert exits.exit_layers(small_config(num_hidden_layers=depth)) == layers


@pytest.mark.parametrize("step", [0, 1])
def test_the_objective_is_two_cross_entropies(step: int) -> None:
    model = lively(num_hidden_layers=4)
    batch = Loader(Random(40), sequence_length=32, rows=4, seed=0).next()
    inputs = loss.tensors(batch, CPU)
    found, own = exits.objective(model, inputs, weight=0.3, step=step)
    found.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    layers = list(model.model.layers)
    parts = []
    for kept in (layers, layers[: 2 + step]):  # the last layers left out
        model.model.layers = torch.nn.ModuleList(kept)
        logits = model(
            inputs["ids_BT"],
            positions_BT=inputs["positions_BT"],
            documents_BT=inputs["documents_BT"],
        )
        targets = inputs["targets_BT"].flatten()
        parts.append(
            F.cross_entropy(logits.flatten(0, 1), targets, ignore_index=IGNORE, reduction="sum")
        )
    want = parts[0] + 0.3 * parts[1]
    assert own.item() == pytest.approx(parts[0].item(), rel=1e-5)
    assert found.item() == pytest.approx(want.item(), rel=1e-5)
    want.backward()  # type: ignore[no-untyped-call]
    model.model.layers = torch.nn.ModuleList(layers)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-4)


def test_gradient_accumulation_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for micro_rows in (1, 3, 8):
        model = lively(torch.float64, num_hidden_layers=4)
        loader = Loader(Random(40, masked=0.5), sequence_length=32, rows=8, seed=0)
        one = trainer(model, loader, tmp_path, micro_rows=micro_rows, exit_loss=0.5)
        monkeypatch.setattr(one.optimizer, "step", lambda: None)  # leaves the gradients
        mean, _ = one.step(loader.next())
        found[micro_rows] = mean, {n: p.grad for n, p in model.named_parameters()}
    mean, gradients = found.pop(8)
    for other_mean, other in found.values():
        assert other_mean == pytest.approx(mean, rel=1e-7)
        for name, gradient in gradients.items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def tuned(example_data: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    options = tuning_options(exit_loss=0.5)
    assert run.finetune(model_dir, example_data, out, options, silent).finished
    return out


def test_resumed_equals_uninterrupted(
    tuned: Path,
    example_data: Path,
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(run, "Trainer", stopping_after(3))
        run.finetune(model_dir, example_data, out, tuning_options(exit_loss=0.5), silent)
    # The plan is kept; another weight would be another model.
    with pytest.raises(InvalidRequest) as error:
        run.finetune(model_dir, example_data, out, tuning_options(exit_loss=0.4), silent)
    assert error.value.param == "exit_loss"
    assert run.finetune(model_dir, example_data, out, tuning_options(), silent).finished
    assert_same(tuned, out)
    assert metrics(tuned) == metrics(out)
    for name in ("early_exit.json", "model.safetensors", "config.json"):
        assert (tuned / "model" / name).read_bytes() == (out / "model" / name).read_bytes()


def test_what_was_measured_is_what_the_engine_does(example_data: Path) -> None:
    """Every measured text through the engine at every point: as many tokens leave and agree as the
    calibration counted."""
    model = lively(num_hidden_layers=4).eval()
    held_out = PackedDataset(example_data, "validation")
    found = calibrate.calibrate(model, held_out, sequence_length=CONTEXT, rows=3)
    assert set(found.gates) == {2, 3}
    assert len(found.points) > 5
    saved = [p.exited * (4 - p.layer) for p in found.points]
    assert saved == sorted(saved)
    assert found.points[0].agreement > 0.9 > found.points[-1].agreement
    whole_ones = np.flatnonzero((held_out.lengths > 1) & (held_out.lengths <= CONTEXT + 1))
    documents = np.random.default_rng(0).permutation(whole_ones)
    backend = EagerBackend(Runner(model.config, model, blocks=32, block_size=16))
    backend.open_exits(found)
    for point in found.points[::3]:
        agreed = left = tokens = 0
        for number in documents[1::2]:
            ids, mask = held_out.document(int(number))
            assert mask is not None
            written = np.flatnonzero(mask[:-1] & mask[1:])  # read to write the next
            text, table = ids[:-1].tolist(), range(-(-len(ids) // 16))
            rows = range(len(text))
            backend.forward([Rows(ids=text, start=0, table=table)])
            want = backend.logits(rows).argmax(-1)[written]
            rule = Exit(point.layer, point.threshold, int(written[0]))
            backend.forward([Rows(ids=text, start=0, table=table, exit=rule)])
            agreed += int((backend.logits(rows).argmax(-1)[written] == want).sum())
            left += int(np.array(backend.left())[written].sum())
            tokens += len(written)
        assert tokens == found.tokens
        assert agreed / tokens == pytest.approx(point.agreement, abs=2.5 / tokens)
        assert left / tokens == pytest.approx(point.exited, abs=2.5 / tokens)


def test_a_model_trained_without_has_no_exits(
    tuned: Path, example_data: Path, tmp_path: Path
) -> None:
    """They would be another model's."""
    out = tmp_path / "out"
    assert run.finetune(tuned / "model", example_data, out, tuning_options(), silent).finished
    assert not (out / "model" / "early_exit.json").exists()


def test_what_cannot_be_is_refused(
    example_data: Path, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    lora = tuning_options(exit_loss=0.5, lora_rank=4)
    with pytest.raises(InvalidRequest, match="leave --lora out"):
        run.finetune(model_dir, example_data, out, lora, silent)
    with pytest.raises(InvalidRequest, match="exit_loss=-1"):
        run.finetune(model_dir, example_data, out, tuning_options(exit_loss=-1.0), silent)
    model = lively(num_hidden_layers=1)
    checkpoint.save(tmp_path / "one", model, model.config, tokenizer_dir=model_dir)
    with pytest.raises(InvalidRequest, match="at least 2 layers"):
        run.pretrain(
            example_data, model_dir, out, small_options(exit_loss=0.5), silent, tmp_path / "one"
        )
    monkeypatch.setattr(calibrate, "PackedDataset", lambda *_: ())
    with pytest.raises(InvalidRequest, match="--val-fraction"):
        run.finetune(model_dir, example_data, out, tuning_options(exit_loss=0.5), silent)

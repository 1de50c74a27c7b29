"""Sources' shares, and that a target counts what its source says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from everloop.train import loss
from everloop.train.loader import IGNORE, Loader
from everloop.train.mixture import mixture
from everloop.train.provenance import fingerprint, fresh_seed
from tests.train.test_step import CPU, Random, lively


def two_sources(count: int) -> Random:
    """Documents of two sources in turn, half of their tokens masked."""
    data = Random(count, masked=0.5)
    data.source_of = (np.arange(count) % 2).astype(np.uint16)
    return data


class Packed:
    """What `mixture` reads of packed data."""

    split = "train"
    manifest: ClassVar = {
        "sources": [
            {"name": n, "weight": w, "documents": {"train": d}, "tokens": {"train": t},
             "targets": {"train": a}}
            for n, w, d, t, a in (
                ("labels", 0.5, 100, 4000, 100), ("translation", 2.0, 50, 1000, 500),
                ("text", 1.0, 10, 3000, 3000), ("empty", 1.0, 0, 0, 0),
            )
        ]
    }  # fmt: skip


def shares(balance: float) -> dict[str, float]:
    found = mixture(Packed(), balance)  # type: ignore[arg-type]
    return dict(zip((s.name for s in found.sources), found.shares(), strict=True))


def test_balance_moves_shares_from_targets_to_tokens() -> None:
    targets, tokens = 50 + 1000 + 3000, 2000 + 2000 + 3000
    assert shares(0)["labels"] == pytest.approx(50 / targets)
    assert shares(1)["labels"] == pytest.approx(2000 / tokens)
    assert shares(1)["text"] == pytest.approx(3000 / tokens)
    assert shares(0)["labels"] < shares(0.5)["labels"] < shares(1)["labels"]
    assert sum(shares(0.3).values()) == pytest.approx(1)
    assert shares(1)["empty"] == 0


def test_the_table_names_every_source_and_its_passes() -> None:
    lines = mixture(Packed(), 1.0).show(14_000).splitlines()  # type: ignore[arg-type]
    assert len(lines) == 5
    assert lines[1].split() == ["text", "10", "3,000", "3,000", "2.00", "42.9%", "42.9%"]


def test_a_target_counts_what_its_source_says() -> None:
    model = lively(torch.float64)
    loader = Loader(two_sources(60), sequence_length=32, rows=8, seed=0, counts=[0.5, 3.0])
    batch = loader.next()
    wanted = batch.targets != IGNORE
    assert set(np.unique(batch.weights[wanted])) == {0.5, 3.0}
    inputs = loss.tensors(batch, CPU)
    total, each = loss.nats(model, inputs)
    assert total.item() == pytest.approx(
        float(each.detach() @ inputs["weights_BT"][wanted].double())
    )
    assert batch.weight == pytest.approx(float(batch.weights[wanted].sum()))
    total.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    logits = model(
        inputs["ids_BT"], positions_BT=inputs["positions_BT"], documents_BT=inputs["documents_BT"]
    )
    apart = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), inputs["targets_BT"].flatten(), ignore_index=IGNORE, reduction="none"
    )
    (apart @ inputs["weights_BT"].flatten().double()).backward()  # type: ignore[no-untyped-call]
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-5, atol=1e-6)


def test_training_on_reads_in_an_order_of_its_own(tmp_path: Path) -> None:
    data, base = tmp_path / "data", tmp_path / "base"
    data.mkdir()
    base.mkdir()
    (data / "manifest.json").write_text("{}")
    assert fresh_seed(None, data) == fresh_seed(base, data) == 0
    same, other = fingerprint(data), "another"

    def behind(*runs: tuple[str, int]) -> int:
        record: dict[str, object] | None = None
        for found, seed in runs:
            record = {"data_fingerprint": found, "plan": {"seed": seed}, "base": record}
        (base / "run.json").write_text(json.dumps(record))
        return fresh_seed(base, data)

    assert behind((other, 4)) == 0
    assert behind((same, 0), (other, 0)) == 1
    assert behind((same, 0), (same, 3), (other, 9)) == 4

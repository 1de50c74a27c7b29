"""One optimizer step: what it learns doesn't depend on how the batch is cut or packed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from everloop.errors import InvalidRequest
from everloop.model.transformer import Transformer
from everloop.train import loss
from everloop.train.distributed import Processes
from everloop.train.loader import IGNORE, Loader
from everloop.train.trainer import Trainer

from .small import VOCABULARY, small_config, small_plan

CPU = torch.device("cpu")


class Random:
    """Random documents, most of their tokens masked, unevenly."""

    def __init__(self, count: int, seed: int = 0, masked: float = 0.0) -> None:
        self.generator = np.random.default_rng(seed)
        self.lengths = self.generator.integers(4, 30, count).astype(np.int64)
        self.source_of = np.zeros(count, dtype=np.uint16)
        self.ids = [self.generator.integers(6, VOCABULARY, n) for n in self.lengths]
        parts = self.generator.random(count) ** 3 if masked else np.ones(count)
        self.masks = [
            (self.generator.random(n) < part).astype(np.uint8)
            for n, part in zip(self.lengths, parts, strict=True)
        ]
        if masked == 1.0:
            self.masks = [np.zeros(n, dtype=np.uint8) for n in self.lengths]

    def document(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.ids[index], self.masks[index]


def lively(dtype: torch.dtype = torch.float32, **changes: object) -> Transformer:
    """Fresh weights without the zeros that `initialize` puts, so that every gradient counts."""
    model = Transformer(small_config(**changes))
    model.initialize(3)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            fresh = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(fresh * parameter.shape[1] ** -0.5)
    return model.to(dtype)


def trainer(model: Transformer, loader: Loader, tmp_path: Path, **changes: object) -> Trainer:
    return Trainer(
        model=model,
        plan=small_plan(**changes),
        loader=loader,
        run=tmp_path,
        tokenizer_dir=tmp_path,
        data_fingerprint="",
        processes=Processes(),
        bf16=False,
    )


def test_gradient_accumulation_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for micro_rows in (1, 2, 3, 8):
        model = lively(torch.float64)
        loader = Loader(Random(40, masked=0.5), sequence_length=32, rows=8, seed=0)
        one = trainer(model, loader, tmp_path, micro_rows=micro_rows)
        monkeypatch.setattr(one.optimizer, "step", lambda: None)  # leaves the gradients
        batch = loader.next()
        uneven = (batch.targets != IGNORE).sum(axis=1)
        assert uneven.max() > 3 * uneven.min()
        mean, targets = one.step(batch)
        assert targets == uneven.sum()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        assert len(gradients) == len(list(model.parameters()))
        found[micro_rows] = (mean, gradients)
    mean, gradients = found.pop(8)
    for other_mean, other in found.values():
        assert other_mean == pytest.approx(mean, rel=1e-7)
        for name, gradient in gradients.items():
            # Norms compute in float32 whatever the model's type.
            torch.testing.assert_close(other[name], gradient, rtol=1e-5, atol=1e-7)


def test_packed_rows_lose_what_their_documents_lose_alone(tmp_path: Path) -> None:
    """The mask and the positions: a document in a row sees itself only."""
    model, data = lively(), Random(60)
    loader = Loader(data, sequence_length=32, rows=8, seed=0)
    batch = loader.next()
    assert (batch.documents.max(axis=1) >= 1).any()
    packed, each = loss.nats(model, loss.tensors(batch, CPU))
    alone, found = 0.0, 0
    for r in range(8):
        for number in range(batch.documents[r].max() + 1):
            here = batch.documents[r] == number
            ids = torch.from_numpy(batch.ids[r][here])[None]
            targets = torch.from_numpy(batch.targets[r][here])
            alone += F.cross_entropy(model(ids)[0], targets, reduction="sum").item()
            found += len(targets)
    assert found == len(each) == batch.target_tokens
    assert packed.item() == pytest.approx(alone, rel=1e-5)


def test_padding_and_neighbours_do_not_reach_a_document() -> None:
    """Another document's tokens, changed, leave this one's losses as they are, bit for bit."""
    model = lively()
    batch = Loader(Random(60), sequence_length=32, rows=4, seed=0).next()
    _, before = loss.nats(model, loss.tensors(batch, CPU))
    changed = dataclasses.replace(batch, ids=np.where(batch.documents == 0, batch.ids, 7))
    _, after = loss.nats(model, loss.tensors(changed, CPU))
    first = torch.from_numpy((batch.documents == 0)[batch.targets != IGNORE])
    assert torch.equal(before[first], after[first])
    assert not torch.equal(before[~first], after[~first])


def plainly(model: Transformer, inputs: dict[str, Tensor]) -> Tensor:
    """The loss as a textbook has it."""
    logits = model(
        inputs["ids_BT"],
        positions_BT=inputs["positions_BT"],
        documents_BT=inputs["documents_BT"],
    )
    return F.cross_entropy(
        logits.flatten(0, 1), inputs["targets_BT"].flatten(), ignore_index=IGNORE, reduction="sum"
    )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("at_once", [1, 1 << 22])
def test_the_chunked_loss_is_cross_entropy(
    tied: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "_LOGITS_CPU", at_once)  # 1: chunks of 64 targets
    model = lively(torch.float64, tie_word_embeddings=tied)
    batch = Loader(Random(60, masked=0.5), sequence_length=32, rows=8, seed=0).next()
    assert batch.target_tokens % 64
    inputs = loss.tensors(batch, CPU)
    ours, each = loss.nats(model, inputs)
    (ours / 7).backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad()
    theirs = plainly(model, inputs)
    (theirs / 7).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    torch.testing.assert_close(each.sum(), theirs, rtol=1e-12, atol=0)
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        # Norms compute in float32 whatever the model's type.
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-5, atol=1e-6)


class Shapes(TorchDispatchMode):
    """The shapes of all matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[torch.Size, ...]] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket is torch.ops.aten.mm:
            self.seen.add((args[0].shape, args[1].shape))
        return func(*args, **(kwargs or {}))


def test_products_come_in_few_shapes_however_many_targets_there_are() -> None:
    """oneDNN keeps megabytes for each: memory would grow with every batch of tuning data."""
    model = lively()
    batch = Loader(Random(60), sequence_length=32, rows=8, seed=0).next()
    with Shapes() as shapes:
        for number in range(1, 200, 3):
            targets = np.full_like(batch.targets, IGNORE)
            targets.flat[:number] = 7
            one = dataclasses.replace(batch, targets=targets)
            total, each = loss.nats(model, loss.tensors(one, CPU))
            total.backward()  # type: ignore[no-untyped-call]
            assert len(each) == number
    of_the_head = {s for s in shapes.seen if VOCABULARY in (*s[0], *s[1])}
    assert len(of_the_head) == 3 * 4  # logits, both gradients; 64, 128, 192 and 256 rows


def test_bfloat16_autocast_is_float32_within_its_rounding() -> None:
    batch = Loader(Random(60), sequence_length=32, rows=8, seed=0).next()
    inputs = loss.tensors(batch, CPU)
    found = []
    for bf16 in (False, True):
        model = lively()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            total, each = loss.nats(model, inputs)
        assert (total.dtype, each.dtype) == (torch.float32, torch.float32)
        total.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(g.dtype == torch.float32 for g in gradients)
        found.append((total.item(), torch.cat([g.flatten() for g in gradients])))
    (exact, wanted), (rounded, gradient) = found
    assert rounded == pytest.approx(exact, rel=2e-3)
    assert F.cosine_similarity(wanted, gradient, dim=0) > 0.999
    assert rounded != exact  # bfloat16 was used


def test_a_batch_without_a_target_is_refused(tmp_path: Path) -> None:
    loader = Loader(Random(20, masked=1.0), sequence_length=32, rows=8, seed=0)
    with pytest.raises(InvalidRequest, match=r"Step 1 has no token to learn.*data inspect"):
        trainer(lively(), loader, tmp_path).step(loader.next())


def test_micro_batches_without_a_target_are_fine(tmp_path: Path) -> None:
    batch = Loader(Random(60), sequence_length=32, rows=8, seed=0).next()
    targets = np.full_like(batch.targets, IGNORE)
    targets[3, :5] = batch.targets[3, :5]
    batch = dataclasses.replace(batch, targets=targets)
    loader = Loader(Random(20), sequence_length=32, rows=8, seed=0)
    mean, found = trainer(lively(), loader, tmp_path, micro_rows=1).step(batch)
    assert found == 5
    assert 0 < mean < 20


def test_rows_are_shared_evenly_or_not_at_all(tmp_path: Path) -> None:
    loader = Loader(Random(20), sequence_length=32, rows=8, seed=0)
    with pytest.raises(InvalidRequest, match="shared by 3 processes") as error:
        Trainer(
            model=lively(),
            plan=small_plan(),
            loader=loader,
            run=tmp_path,
            tokenizer_dir=tmp_path,
            data_fingerprint="",
            processes=Processes(world=3),
            bf16=False,
        )
    assert error.value.param == "batch_tokens"

"""Robust loss terms: each does what its paper says, and none depends on how a batch is cut."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everloop.errors import InvalidRequest
from everloop.model.transformer import Transformer
from everloop.train import loss
from everloop.train.loader import IGNORE, Batch, Loader
from everloop.train.objective import Objective
from everloop.train.robust import Robust, parse
from everloop.train.views import Rows, Views, document_sums, neftune_noise, norms

from .test_step import Random, lively

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Loader(Random(60, masked=0.5), sequence_length=32, rows=8, seed=0).next()


def objective(model: Transformer, text: str, seed: int = 1) -> Objective:
    return Objective(model, parse(text), seed=seed, autocast=contextlib.nullcontext)


def gradients(model: Transformer, one: Objective, batch: Batch, cuts: list[int]) -> list[Tensor]:
    model.zero_grad()
    for start, stop in pairwise(cuts):
        inputs = loss.tensors(batch.rows(start, stop), CPU)
        one.learn(inputs, total=batch.weight, step=3, numbers=range(start, stop))
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


TERMS = ["neftune=5", "dropout=0.2", "rdrop=2", "vat=1", "freelb=3", "neftune=5,rdrop=1,vat=1"]


@pytest.mark.parametrize("text", TERMS)
def test_cutting_the_batch_changes_nothing_and_drawing_again_neither(
    text: str, batch: Batch
) -> None:
    model = lively()
    one = objective(model, text)
    whole = gradients(model, one, batch, [0, 8])
    parts = gradients(model, one, batch, [0, 3, 4, 8])
    again = gradients(model, one, batch, [0, 8])
    assert len(whole) == len(list(model.parameters()))
    for a, b, c in zip(whole, parts, again, strict=True):
        assert torch.equal(a, c)
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-5)
    other = gradients(model, objective(model, text, seed=2), batch, [0, 8])
    assert any(not torch.equal(a, b) for a, b in zip(whole, other, strict=True))


def test_without_a_term_it_is_the_plain_loss(batch: Batch) -> None:
    model = lively()
    inputs = loss.tensors(batch, CPU)
    nats, terms = objective(model, "").learn(inputs, total=1.0, step=0, numbers=range(8))
    assert terms == 0
    assert nats == pytest.approx(float(loss.nats(model, inputs)[0].detach()))


def test_sums_and_norms_are_those_of_documents() -> None:
    documents = torch.tensor([[0, 0, 1, 1, 1, -1], [0, 1, 2, -1, -1, -1]])
    values = torch.arange(12.0).reshape(2, 6)
    expected = [[1, 1, 9, 9, 9, 0], [6, 7, 8, 0, 0, 0]]
    assert document_sums(values, documents).tolist() == expected
    x = torch.randn(2, 6, 5)
    assert norms(x, documents)[0, 3, 0] == pytest.approx(x[0, 2:5].norm().item())
    assert norms(x, documents)[1, 4, 0] == 0


def test_neftune_has_the_papers_norm_in_every_document() -> None:
    """Uniform noise scaled by α/√(L·C): its expected squared norm is α²/3."""
    alpha, channels = 5.0, 64
    documents = torch.tensor([[0] * 40 + [1] * 20 + [-1] * 4])
    noise = neftune_noise(
        torch.zeros(1, 64, channels), documents, alpha, [torch.Generator().manual_seed(1)]
    )
    for number, length in ((0, 40), (1, 20)):
        part = noise[0][documents[0] == number]
        assert part.norm().item() == pytest.approx(alpha / math.sqrt(3), rel=0.05)
        bound = alpha / math.sqrt(length * channels)
        assert part.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert not noise[0, 60:].any()


def test_views_end_where_they_are_left(batch: Batch) -> None:
    """Validation and plain steps see the model as it is."""
    model = lively()
    inputs = loss.tensors(batch, CPU)
    before = loss.nats(model, inputs)[0].detach()
    views = Views(model, parse("neftune=20,dropout=0.3"))
    assert torch.equal(loss.nats(model, inputs)[0].detach(), before)
    with views.seen(inputs, Rows(seed=0, step=0, numbers=range(8)), 0):
        assert not torch.equal(loss.nats(model, inputs)[0].detach(), before)
    assert torch.equal(loss.nats(model, inputs)[0].detach(), before)


def test_dropout_keeps_the_mean_and_drops_its_share() -> None:
    model = lively()
    views = Views(model, Robust(dropout=0.25))
    inputs = {"ids_BT": torch.zeros(64, 8, dtype=torch.long)}
    inputs["documents_BT"] = torch.zeros(64, 8, dtype=torch.long)
    with views.seen(inputs, Rows(seed=0, step=0, numbers=range(64)), 0):
        dropped = views._drop(torch.ones(64, 8, 32))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.02)


def test_the_divergence_is_kl_and_its_symmetric_form_too(batch: Batch) -> None:
    model = lively(torch.float64)
    one = objective(model, "rdrop=1")
    inputs = loss.tensors(batch, CPU)
    wanted = inputs["targets_BT"] != IGNORE
    a, b = (torch.randn(8, 32, 32, dtype=torch.float64) for _ in range(2))
    log_p, log_q = (F.log_softmax(model.lm_head(x[wanted]), -1) for x in (a, b))
    forth = F.kl_div(log_q, log_p, log_target=True, reduction="sum")
    back = F.kl_div(log_p, log_q, log_target=True, reduction="sum")
    torch.testing.assert_close(one._divergence(a, b, inputs), forth)
    both = one._divergence(a, b, inputs, symmetric=True)
    torch.testing.assert_close(both, forth + back)
    torch.testing.assert_close(one._divergence(b, a, inputs, symmetric=True), both)
    assert one._divergence(a, a, inputs, symmetric=True).item() == 0


def test_rdrop_is_half_the_papers_loss(batch: Batch) -> None:
    model, inputs = lively(), loss.tensors(batch, CPU)
    one = objective(model, "rdrop=3,dropout=0.3")
    rows = Rows(seed=1, step=3, numbers=range(8))
    (first, a), (second, b) = (one._view(inputs, rows, view) for view in (0, 1))
    assert first.item() != second.item()
    both = one._divergence(a, b, inputs, symmetric=True)
    nats, terms = one.learn(inputs, total=1.0, step=3, numbers=range(8))
    assert nats == pytest.approx((first + second).item() / 2, rel=1e-5)
    assert terms == pytest.approx(3 * (both / 2).item() / 2, rel=1e-4)
    assert terms > 0


def test_rdrop_without_two_different_views_has_nothing_to_say(batch: Batch) -> None:
    """What the refusal of rdrop with dropout=0 is for."""
    one = Objective(lively(), Robust(rdrop=3.0), seed=1, autocast=contextlib.nullcontext)
    _, terms = one.learn(loss.tensors(batch, CPU), total=1.0, step=0, numbers=range(8))
    assert terms == 0


def test_vat_finds_a_worse_change_than_chance(batch: Batch) -> None:
    model, inputs = lively(), loss.tensors(batch, CPU)
    one = objective(model, "vat=1,eps=0.05")
    rows = Rows(seed=1, step=0, numbers=range(8))
    size = one._size(inputs)
    clean = one._hidden(inputs, rows, 0, None).detach()
    start = one._start(inputs, rows, size)
    documents = inputs["documents_BT"]
    scaled = start * size / norms(start, documents).clamp(min=1e-9)  # as large as the worst one
    chance = one._divergence(clean, one._hidden(inputs, rows, 0, scaled), inputs).item()
    worst = one._vat(inputs, rows, clean).item()
    assert worst > 2 * chance > 0


def test_vat_changes_are_of_size_eps_in_every_document(batch: Batch) -> None:
    model, inputs = lively(), loss.tensors(batch, CPU)
    one = objective(model, "vat=1,eps=0.1")
    seen: list[Tensor] = []
    inner = one._hidden

    def spying(inputs: dict, rows: Rows, view: int, change: Tensor | None) -> Tensor:
        if change is not None:
            seen.append(change.detach())
        return inner(inputs, rows, view, change)

    one._hidden = spying  # type: ignore[method-assign]
    one.learn(inputs, total=1.0, step=0, numbers=range(8))
    documents = inputs["documents_BT"]
    embedded = model.model.embed_tokens(inputs["ids_BT"]).detach()
    learns = document_sums((inputs["targets_BT"] != IGNORE).float(), documents) > 0
    ratio = (norms(seen[-1], documents) / norms(embedded, documents).clamp(min=1e-9))[..., 0]
    torch.testing.assert_close(ratio[learns], torch.full_like(ratio[learns], 0.1))
    assert not ratio[~learns].any()  # nothing to learn, nothing to change


def test_freelb_climbs(batch: Batch) -> None:
    """Each step's change is worse than the one before, and none leaves the ball."""
    model, inputs = lively(), loss.tensors(batch, CPU)
    one = objective(model, "freelb=4,eps=0.1")
    losses: list[float] = []
    changes: list[Tensor] = []
    inner: Callable[..., tuple[Tensor, Tensor]] = one._view

    def spying(*given: object) -> tuple[Tensor, Tensor]:
        nats, hidden = inner(*given)
        losses.append(nats.item())
        changes.append(given[3].detach())  # type: ignore[attr-defined]
        return nats, hidden

    one._view = spying  # type: ignore[method-assign]
    said, _ = one.learn(inputs, total=1.0, step=0, numbers=range(8))
    assert losses == sorted(losses)
    assert losses[-1] > 1.05 * losses[0]
    assert said == pytest.approx(np.mean(losses))
    size = one._size(inputs)
    documents = inputs["documents_BT"]
    for change in changes:
        assert (norms(change, documents) <= size * 1.0001).all()
    start = norms(changes[0], documents) / size.clamp(min=1e-9)
    assert start[size > 0].mean().item() == pytest.approx(1 / math.sqrt(3), rel=0.1)


def test_freelb_averages_the_gradients_of_its_steps(batch: Batch) -> None:
    model, inputs = lively(), loss.tensors(batch, CPU)
    one = objective(model, "freelb=2")
    changes: list[Tensor] = []
    inner = one._view

    def spying(inputs: dict, rows: Rows, view: int, change: Tensor) -> tuple[Tensor, Tensor]:
        changes.append(change.detach())
        return inner(inputs, rows, view, change)

    one._view = spying  # type: ignore[method-assign, assignment]
    found = gradients(model, one, batch, [0, 8])
    model.zero_grad()
    rows = Rows(seed=1, step=3, numbers=range(8))
    for change in changes:
        (inner(inputs, rows, 0, change)[0] / batch.weight / 2).backward()
    for a, p in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", Robust()),
        ("neftune=5", Robust(neftune=5.0)),
        (" rdrop=1 ", Robust(rdrop=1.0, dropout=0.1)),
        ("rdrop=1,dropout=0.3", Robust(rdrop=1.0, dropout=0.3)),
        ("neftune=5,rdrop=1", Robust(neftune=5.0, rdrop=1.0)),
        ("vat=0.5", Robust(vat=0.5, eps=0.05)),
        ("freelb=3,eps=0.2,dropout=0.1", Robust(freelb=3, eps=0.2, dropout=0.1)),
    ],
)
def test_what_is_asked_for_is_read(text: str, found: Robust) -> None:
    assert parse(text) == found
    assert parse(str(found)) == found
    assert bool(found) == bool(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mixup=1", "no term 'mixup'"),
        ("rdrop", "such as rdrop=1"),
        ("rdrop=a", "such as rdrop=1"),
        ("rdrop=-1", "0 or more"),
        ("vat=nan", "0 or more"),
        ("dropout=1", "0 to 0.9"),
        ("freelb=2.5", "1 to 5"),
        ("freelb=9", "1 to 5"),
        ("vat=1,vat=2", "twice"),
        ("freelb=3,neftune=5", "both freelb and neftune"),
        ("freelb=3,rdrop=1", "both freelb and rdrop"),
        ("freelb=3,vat=1", "both freelb and vat"),
        ("rdrop=1,dropout=0", "the same"),
        ("neftune=5,eps=0.1", "eps"),
    ],
)
def test_what_means_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        parse(text)
    assert caught.value.param == "robust"


def test_the_cost_counts_passes() -> None:
    assert [parse(t).cost for t in ("neftune=5", "rdrop=1", "freelb=3")] == [1, 2, 3]
    assert parse("vat=1").cost == pytest.approx(8 / 3)

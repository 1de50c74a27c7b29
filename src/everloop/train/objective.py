"""What a micro-batch adds to the gradients when a run has robust terms (`robust.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from everloop.model.transformer import Transformer
from everloop.train import loss
from everloop.train.loader import IGNORE
from everloop.train.robust import Robust
from everloop.train.views import Rows, Views, lengths, norms, uniform

Autocast = Callable[[], AbstractContextManager[Any]]

_STRIDE = 1.5
"""FreeLB's K steps of 1.5·eps/K reach the bound eps from its random start and turn there."""

_CHUNK = 256
"""Targets compared at once: their two rows of logits are the largest thing here."""


class Objective:
    """Cross-entropy with the terms of `robust`. Everything is a sum over targets by their weights,
    divided by `total` of the whole batch: gradient accumulation changes nothing."""

    def __init__(
        self, model: Transformer, robust: Robust, *, seed: int, autocast: Autocast
    ) -> None:
        self.model, self.robust, self.seed, self.autocast = model, robust, seed, autocast
        self.views = Views(model, robust)

    def learn(
        self, inputs: dict[str, Tensor], *, total: float, step: int, numbers: range
    ) -> tuple[float, float]:
        """Adds the gradients of one micro-batch, whose rows are `numbers` of the batch. Returns its
        cross-entropy and its terms beside that, as sums in nats."""
        rows = Rows(seed=self.seed, step=step, numbers=numbers)
        if self.robust.freelb:
            return self._freelb(inputs, rows, total), 0.0
        with self.autocast():
            nats, hidden = self._view(inputs, rows, 0)
            terms = nats.new_zeros(())
            if self.robust.rdrop:
                # The paper's sum of two cross-entropies and α times the mean of both divergences,
                # halved, so that the loss is of a plain one's size.
                other, hidden_2 = self._view(inputs, rows, 1)
                nats = (nats + other) / 2
                both = self._divergence(hidden, hidden_2, inputs, symmetric=True)
                terms = terms + self.robust.rdrop / 2 * both / 2
            if self.robust.vat:
                terms = terms + self.robust.vat * self._vat(inputs, rows, hidden.detach())
        ((nats + terms) / total).backward()  # type: ignore[no-untyped-call]
        return float(nats.detach()), float(terms.detach())

    def _view(
        self, inputs: dict[str, Tensor], rows: Rows, view: int, change: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy and the states (B, T, C)."""
        hidden = self._hidden(inputs, rows, view, change)
        return loss.head_nats(self.model, hidden, inputs)[0], hidden

    def _hidden(
        self, inputs: dict[str, Tensor], rows: Rows, view: int, change: Tensor | None
    ) -> Tensor:
        with self.views.seen(inputs, rows, view, change):
            return self.model.hidden(
                inputs["ids_BT"], inputs["positions_BT"], inputs["documents_BT"]
            )

    def _size(self, inputs: dict[str, Tensor]) -> Tensor:
        """(B, T, 1): how large a document's change may be, eps times its embeddings' norm."""
        embedded = F.embedding(inputs["ids_BT"], self.model.model.embed_tokens.weight.detach())
        return self.robust.eps * norms(embedded, inputs["documents_BT"])

    def _start(self, inputs: dict[str, Tensor], rows: Rows, size: Tensor) -> Tensor:
        """A random change (B, T, C) of norm about size/√3 in each document, as FreeLB begins."""
        documents = inputs["documents_BT"]
        channels = self.model.config.hidden_size
        shape = size.expand(*documents.shape, channels)
        drawn = 2 * uniform(shape, rows.generators(2, documents.device)) - 1
        spread = (lengths(documents) * channels).clamp(min=1).sqrt()[..., None]
        return drawn * size / spread

    def _vat(self, inputs: dict[str, Tensor], rows: Rows, clean: Tensor) -> Tensor:
        """How far predictions move under the change of size eps that moves them most, which one
        power iteration finds; the clean ones are taken as given."""
        size = self._size(inputs)
        probe = self._start(inputs, rows, size).requires_grad_()
        moved = self._hidden(inputs, rows, 0, probe)
        far = self._divergence(clean, moved, inputs)
        (uphill,) = torch.autograd.grad(far, probe)
        worst = size * _unit(uphill, inputs["documents_BT"])
        return self._divergence(clean, self._hidden(inputs, rows, 0, worst), inputs)

    def _freelb(self, inputs: dict[str, Tensor], rows: Rows, total: float) -> float:
        """The mean of the gradients at K changes, each uphill from the one before."""
        steps, documents = self.robust.freelb, inputs["documents_BT"]
        size = self._size(inputs)
        change, said = self._start(inputs, rows, size), 0.0
        for _ in range(steps):
            change.requires_grad_()
            with self.autocast():
                nats, _ = self._view(inputs, rows, 0, change)
            (nats / (total * steps)).backward()  # type: ignore[no-untyped-call]
            said += float(nats.detach()) / steps
            assert change.grad is not None
            change = self._uphill(change.detach(), change.grad, size, documents)
        return said

    def _uphill(self, change: Tensor, gradient: Tensor, size: Tensor, documents: Tensor) -> Tensor:
        """One step along the gradient, and back into the ball."""
        moved = change + _STRIDE / self.robust.freelb * size * _unit(gradient, documents)
        return moved * (size / norms(moved, documents).clamp(min=1e-12)).clamp(max=1)

    def _divergence(
        self,
        one_BTC: Tensor,
        other_BTC: Tensor,
        inputs: dict[str, Tensor],
        *,
        symmetric: bool = False,
    ) -> Tensor:
        """Sum over targets of KL(one‖other), or of both directions."""
        wanted = inputs["targets_BT"] != IGNORE
        one, other, counts = one_BTC[wanted], other_BTC[wanted], inputs["weights_BT"][wanted]
        total = counts.new_zeros((), dtype=torch.promote_types(one.dtype, torch.float32))
        for at in range(0, len(counts), _CHUNK):
            part = slice(at, at + _CHUNK)
            total = total + checkpoint(
                self._compared, one[part], other[part], counts[part], symmetric,
                use_reentrant=False,
            )  # fmt: skip
        return total

    def _compared(self, one: Tensor, other: Tensor, counts: Tensor, symmetric: bool) -> Tensor:
        # In float32 at least: the difference of two logarithms is small.
        exact = torch.promote_types(one.dtype, torch.float32)
        log_p = F.log_softmax(self.model.lm_head(one).to(exact), dim=-1)
        log_q = F.log_softmax(self.model.lm_head(other).to(exact), dim=-1)
        p = log_p.exp() - log_q.exp() if symmetric else log_p.exp()
        return ((p * (log_p - log_q)).sum(-1) * counts).sum()


def _unit(x_BTC: Tensor, documents_BT: Tensor) -> Tensor:
    """Each document's part with norm 1; 0 where it is 0."""
    size = norms(x_BTC, documents_BT)
    return torch.where(size > 0, x_BTC / size.clamp(min=math.ulp(0.0)), 0.0)

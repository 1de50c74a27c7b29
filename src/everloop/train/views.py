"""Other views of the same tokens: embeddings changed, activations dropped.

Every random number belongs to a row of the batch, by (seed, step, row, view): it does not depend on
how rows are cut into micro-batches or shared by processes, and a resumed run draws the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from everloop.data.split import mix
from everloop.model.transformer import Transformer
from everloop.train.robust import Robust


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Which rows a micro-batch holds: `numbers` are theirs in the batch of `step`."""

    seed: int
    step: int
    numbers: range

    def generators(self, view: int, device: torch.device) -> list[torch.Generator]:
        """One for each row; another `view`, other numbers."""
        value = mix(mix(self.seed, self.step), view)
        return [
            torch.Generator(device).manual_seed(mix(value, number) >> 1) for number in self.numbers
        ]


class Views:
    """Changes what `model` computes while `seen` is entered, and nothing at other times."""

    def __init__(self, model: Transformer, robust: Robust) -> None:
        self.robust = robust
        self._generators: list[torch.Generator] | None = None
        self._documents: Tensor | None = None
        self._change: Tensor | None = None
        model.model.embed_tokens.register_forward_hook(self._embedded)
        if robust.dropout:
            for block in model.model.layers:
                attention, mlp = block.self_attn, block.mlp
                assert isinstance(attention, nn.Module)
                assert isinstance(mlp, nn.Module)
                for part in (attention.o_proj, mlp.down_proj):
                    assert isinstance(part, nn.Module)
                    part.register_forward_hook(self._dropped)

    @contextmanager
    def seen(
        self, inputs: dict[str, Tensor], rows: Rows, view: int, change: Tensor | None = None
    ) -> Iterator[None]:
        """The model as in `view`; `change` (B, T, C) is added to the embeddings. Entered again
        with the same view, it draws the same noise and drops the same activations."""
        self._generators = rows.generators(view, inputs["ids_BT"].device)
        self._documents, self._change = inputs["documents_BT"], change
        try:
            yield
        finally:
            self._generators = self._documents = self._change = None

    def _embedded(self, _module: nn.Module, _given: Any, x_BTC: Tensor) -> Tensor | None:
        if self._generators is None or self._documents is None:
            return None
        if self.robust.neftune:
            x_BTC = x_BTC + neftune_noise(
                x_BTC, self._documents, self.robust.neftune, self._generators
            )
        if self._change is not None:
            x_BTC = x_BTC + self._change
        return self._drop(x_BTC)

    def _dropped(self, _module: nn.Module, _given: Any, x_BTC: Tensor) -> Tensor | None:
        return None if self._generators is None else self._drop(x_BTC)

    def _drop(self, x_BTC: Tensor) -> Tensor:
        rate = self.robust.dropout
        if not rate or self._generators is None:
            return x_BTC
        kept = uniform(x_BTC, self._generators) >= rate
        return x_BTC * kept / (1 - rate)


def uniform(like_BTC: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Numbers in [0, 1) of this shape, each row's from its own generator."""
    return torch.stack(
        [torch.rand(like_BTC.shape[1:], generator=g, device=like_BTC.device) for g in generators]
    )


def neftune_noise(
    x_BTC: Tensor, documents_BT: Tensor, alpha: float, generators: list[torch.Generator]
) -> Tensor:
    """Uniform in ±α/√(L·C) for a document of L tokens and C channels, 0 on padding: its norm over
    the document is about α/√3, however long that is."""
    size = alpha / (lengths(documents_BT) * x_BTC.shape[-1]).clamp(min=1).sqrt()
    noise = (2 * uniform(x_BTC, generators) - 1) * size[..., None]
    return (noise * (documents_BT >= 0)[..., None]).to(x_BTC.dtype)


def lengths(documents_BT: Tensor) -> Tensor:
    """Tokens of the document that each token belongs to; 0 for padding."""
    return document_sums((documents_BT >= 0).float(), documents_BT)


def norms(x_BTC: Tensor, documents_BT: Tensor) -> Tensor:
    """(B, T, 1): the L2 norm of the document that each token belongs to; 0 for padding."""
    return document_sums(x_BTC.float().square().sum(-1), documents_BT).sqrt()[..., None]


def document_sums(values_BT: Tensor, documents_BT: Tensor) -> Tensor:
    """Sums over documents, at each of their tokens. Padding, numbered -1, has none."""
    there = documents_BT >= 0
    at = documents_BT.clamp(min=0)
    sums = values_BT.new_zeros(len(values_BT), int(at.max()) + 1)
    sums.scatter_add_(1, at, values_BT * there)
    return sums.gather(1, at) * there

"""The directions in which a layer's inputs mostly lie, for native/compensate.h."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everloop.engine.native.backend import Floats

COUNT = 16
"""kDirections."""

GROUP = 32
"""kGroup: inputs are padded to these."""

DAMPING = 0.01
"""Share of the inputs that is taken to lie anywhere: the text that they come from is short."""

ROUNDS = 6
"""Of the search for directions."""


@dataclass(frozen=True, slots=True)
class Directions:
    """(padded inputs, COUNT) each; nothing where errors are not made up for."""

    x: Floats | None = None
    y: Floats | None = None

    @property
    def components(self) -> int | None:
        """Address of x."""
        return None if self.x is None else self.x.ctypes.data

    @property
    def responses(self) -> int | None:
        """Address of y."""
        return None if self.y is None else self.y.ctypes.data


def directions(native: Any, inputs: Tensor) -> Directions:
    """Of inputs (tokens, inputs): their principal directions, not centered, and what is left."""
    tokens, size = inputs.shape
    gram = inputs @ inputs.T
    if not torch.isfinite(gram).all() or not gram.trace() > 0:
        return Directions()
    found = principal(gram, min(COUNT, tokens)).T.double() @ inputs.double()
    whole, held = inputs.double().pow(2).sum().item(), found.pow(2).sum().item()
    x = np.zeros((-(-size // GROUP) * GROUP, COUNT), np.float32)
    x[:size, : len(found)] = found.T.numpy()
    y = np.empty_like(x)
    native.respond(x, len(x), max(whole - held, 0.0) / size + DAMPING * whole / size, y)
    return Directions(x, y) if np.isfinite(y).all() else Directions()


def principal(gram: Tensor, count: int) -> Tensor:
    """(n, count): nearly the eigenvectors of the largest eigenvalues of `gram` (n, n), by subspace
    iteration, several times as fast as all of them."""
    start = torch.randn(
        len(gram), min(2 * count, len(gram)), generator=torch.Generator().manual_seed(0)
    )
    basis = torch.linalg.qr(start)[0]
    for _ in range(ROUNDS):
        basis = torch.linalg.qr(gram @ basis)[0]
    _, vectors = torch.linalg.eigh(basis.T @ gram @ basis)
    found: Tensor = basis @ vectors[:, -count:]
    return found

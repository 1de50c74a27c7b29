"""The seam for matrix products: every weight matrix of the served model is one `Linear` object.

A row of a product must not depend on the rows beside it, bit for bit: that makes seeded requests
reproducible whatever else is in the batch. Libraries promise no such thing, so it is checked on
the machine, with the model's own shapes, when the model is loaded; a kind that fails is not used.
Quantized kernels go in here as further kinds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

PROBE_ROWS = 48


class Linear(ABC):
    """y = x Wᵀ + b for float32 rows; packed once, called once per layer and step."""

    inputs: int
    outputs: int

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """(rows, inputs) to (rows, outputs). `rows` is one that `round_rows` returns."""


class PackedLinear(Linear):
    """oneDNN's blocked kernel over weights in its own layout (CPU, float32 or bfloat16)."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.outputs, self.inputs = weight.shape
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PROBE_ROWS)
        self._bias = bias
        self._apply = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = self._apply(x, self._weight, self._bias, "none", [], "")
        return out


class PlainLinear(Linear):
    """PyTorch's own product, whatever library is behind it."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.outputs, self.inputs = weight.shape
        self._weight, self._bias = weight.t().contiguous(), bias

    def __call__(self, x: Tensor) -> Tensor:
        if self._bias is None:
            return x @ self._weight
        return torch.addmm(self._bias, x, self._weight)


class TiledLinear(PlainLinear):
    """PlainLinear in tiles of one fixed shape: slow, but no product ever has another shape."""

    tile = 16

    def __call__(self, x: Tensor) -> Tensor:
        out = x.new_empty(x.shape[0], self.outputs)
        for i in range(0, x.shape[0], self.tile):
            out[i : i + self.tile] = super().__call__(x[i : i + self.tile])
        return out


class Kind:
    """A way to multiply, and the row counts at which it is exact on this machine."""

    def __init__(
        self, make: Callable[[Tensor, Tensor | None], Linear], multiple: int, name: str
    ) -> None:
        self.make, self.multiple, self.name = make, multiple, name

    def round_rows(self, rows: int) -> int:
        """The row count to pad to: few different ones, since a library compiles a kernel for
        each (rounded up to three binary digits, so at most a quarter is wasted)."""
        step = max(1 << max(rows.bit_length() - 3, 0), self.multiple)
        return -(-rows // step) * step


CANDIDATES = (
    Kind(PackedLinear, 1, "oneDNN packed"),
    Kind(PackedLinear, 4, "oneDNN packed, rows by 4"),
    Kind(PlainLinear, 4, "plain, rows by 4"),
    Kind(PlainLinear, 16, "plain, rows by 16"),
    Kind(TiledLinear, TiledLinear.tile, "tiles of 16 rows"),
)
"""Fastest first. The last one always works."""


def choose(weights: Iterable[tuple[Tensor, Tensor | None]]) -> Kind:
    """The first candidate whose rows are independent for every shape among `weights`."""
    shapes = {(tuple(w.shape), b is not None): (w, b) for w, b in weights}
    for kind in CANDIDATES[:-1]:
        try:
            if all(rows_are_independent(kind, w, b) for w, b in shapes.values()):
                return kind
        except (RuntimeError, AttributeError):  # this build of PyTorch lacks the operator
            continue
    return CANDIDATES[-1]


def rows_are_independent(kind: Kind, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether each row of a product has the same bits alone, at another place and among others."""
    linear = kind.make(weight, bias)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(PROBE_ROWS, linear.inputs, generator=generator).to(weight.dtype)
    want = linear(x)
    for rows in (1, 2, 3, 5, 7, 12, 24):
        for start in (0, 7):
            part = F.pad(x[start : start + rows], (0, 0, 0, kind.round_rows(rows) - rows))
            if not torch.equal(linear(part)[:rows], want[start : start + rows]):
                return False
    return True

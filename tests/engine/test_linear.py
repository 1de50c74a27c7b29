from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everloop.engine.native.linear import (
    CANDIDATES,
    Kind,
    PlainLinear,
    choose,
    rows_are_independent,
)

SHAPES = [(96, 48), (48, 96), (330, 48), (7, 33)]


def random(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("kind", CANDIDATES, ids=lambda k: k.name)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("biased", [False, True])
def test_every_kind_is_a_matrix_product(kind: Kind, shape: tuple[int, int], biased: bool) -> None:
    weight, bias = random(*shape), random(1, shape[0])[0] if biased else None
    linear = kind.make(weight, bias)
    assert (linear.outputs, linear.inputs) == shape
    for rows in (1, 5, 48):
        x = random(kind.round_rows(rows), shape[1])
        want = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
        assert torch.allclose(linear(x).double(), want, atol=1e-4)


def test_the_chosen_kind_has_independent_rows() -> None:
    weights = [(random(*shape), None) for shape in SHAPES]
    kind = choose(weights)
    assert all(rows_are_independent(kind, *w) for w in weights)


def test_a_kind_whose_rows_depend_on_their_neighbours_is_found_out() -> None:
    class Leaky(PlainLinear):
        def __call__(self, x: Tensor) -> Tensor:
            return super().__call__(x) * (1 + 1e-6 * (x.shape[0] % 2))

    assert not rows_are_independent(Kind(Leaky, 1, "leaky"), random(8, 8), None)


@pytest.mark.parametrize("multiple", [1, 4, 16])
def test_padding_is_small_and_of_few_sizes(multiple: int) -> None:
    kind = Kind(PlainLinear, multiple, "")
    sizes = {rows: kind.round_rows(rows) for rows in range(1, 600)}
    assert all(size >= rows and size % multiple == 0 for rows, size in sizes.items())
    assert all(size <= max(1.25 * rows, rows + multiple) for rows, size in sizes.items())
    assert len(set(sizes.values())) < 40

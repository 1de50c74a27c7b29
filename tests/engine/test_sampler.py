from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from everloop.engine.native.noise import uniform
from everloop.engine.native.sampler import CANDIDATES, Choice, adjust, sample


def reference(row: Tensor, choice: Choice) -> list[float]:
    """The distribution by the definitions, one token after the other, in float64."""
    row = row.clone()
    adjust(row, choice)
    values = [float(x) / choice.temperature for x in row]
    top = max(values)
    weights = {i: math.exp(v - top) for i, v in enumerate(values)}
    order = sorted(weights, key=lambda i: (-weights[i], i))
    if choice.top_k:
        order = order[: choice.top_k]
    total = sum(weights[i] for i in order)
    kept, before = [], 0.0
    for i in order:
        if kept and choice.top_p < 1 and before >= choice.top_p * total:
            break
        kept.append(i)
        before += weights[i]
    kept = [i for n, i in enumerate(kept) if n == 0 or weights[i] >= choice.min_p]
    mass = sum(weights[i] for i in kept)
    return [weights[i] / mass if i in kept else 0.0 for i in range(len(row))]


def frequencies(row: Tensor, choice: Choice, draws: int = 4000) -> list[float]:
    """How often each token is drawn with evenly spaced noise: the distribution itself."""
    rows = row[None].expand(draws, -1)
    tokens = sample(rows, [choice] * draws, [(i + 0.5) / draws for i in range(draws)])
    counts = Counter(tokens)
    return [counts[i] / draws for i in range(len(row))]


CHOICES = [
    Choice(temperature=1.0),
    Choice(temperature=0.7),
    Choice(temperature=1.5, top_k=3),
    Choice(temperature=1.0, top_p=0.6),
    Choice(temperature=1.0, min_p=0.2),
    Choice(temperature=0.9, top_k=6, top_p=0.8, min_p=0.05),
    Choice(temperature=1.0, presence_penalty=0.7, frequency_penalty=0.4, output={1: 3, 4: 1}),
    Choice(temperature=1.0, repetition_penalty=1.6, prompt=frozenset({0, 2}), output={5: 1}),
    Choice(temperature=1.0, logit_bias={3: 2.0, 0: -100.0}),
]


@pytest.mark.parametrize("choice", CHOICES)
def test_distribution(choice: Choice) -> None:
    row = torch.tensor([1.2, 0.3, -0.5, 0.9, 2.0, -1.0, 0.0, 1.1])
    want = reference(row, choice)
    got = frequencies(row, choice)
    assert got == pytest.approx(want, abs=1e-3)
    assert [g == 0 for g in got] == [w < 1e-4 for w in want]


@pytest.mark.parametrize(
    "choice",
    [
        Choice(temperature=50.0, top_p=0.9),  # flat: more tokens than the candidates
        Choice(temperature=1.0, top_p=0.5),
        Choice(temperature=50.0, top_k=CANDIDATES[0]),
        Choice(temperature=50.0, top_k=CANDIDATES[0] + 1),
        Choice(temperature=50.0, top_k=CANDIDATES[1] + 40, top_p=0.8),
        Choice(temperature=50.0, min_p=0.95),
        Choice(temperature=1.0, top_k=10**9, top_p=0.9),
    ],
)
def test_cuts_of_a_large_vocabulary(choice: Choice) -> None:
    row = torch.randn(900, generator=torch.Generator().manual_seed(3)) * 3
    want = reference(row, choice)
    got = frequencies(row, choice, draws=6000)
    assert {i for i, g in enumerate(got) if g} <= {i for i, w in enumerate(want) if w}
    assert sum(abs(g - w) for g, w in zip(got, want, strict=True)) < 0.1
    assert max(abs(g - w) for g, w in zip(got, want, strict=True)) < 5e-4


def test_chi_square_with_the_requests_own_noise() -> None:
    row = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5])
    want = reference(row, Choice(temperature=1.0))
    n = 20_000
    draws = [uniform(seed, place) for seed in range(200) for place in range(n // 200)]
    tokens = Counter(sample(row[None].expand(n, -1), [Choice(temperature=1.0)] * n, draws))
    statistic = sum((tokens[i] - n * p) ** 2 / (n * p) for i, p in enumerate(want))
    assert statistic < 18.5  # chi-square, 4 degrees of freedom, p = 0.001


def test_greedy_takes_the_lowest_of_equal_tokens() -> None:
    row = torch.tensor([[0.0, 3.0, 1.0, 3.0]])
    assert sample(row, [Choice(temperature=0.0)], [0.9]) == [1]
    banned = Choice(temperature=0.0, logit_bias={1: -100.0})
    assert sample(row, [banned], [0.9]) == [3]
    assert row.tolist() == [[0.0, 3.0, 1.0, 3.0]]  # left as it was


@pytest.mark.parametrize("temperature", [1e-300, 1e-45, 1e-7])
def test_tiny_temperature_is_greedy_not_nan(temperature: float) -> None:
    row = torch.tensor([[1.0, 1.001, -5.0]])
    for choice in (Choice(temperature=temperature), Choice(temperature=temperature, top_p=0.5)):
        assert sample(row, [choice], [0.999999]) == [1]


def test_extreme_draws_and_logits_stay_in_the_vocabulary() -> None:
    row = torch.tensor([[-1e30, 0.0, 1e-3, -1e30]])
    almost_one = 1 - 2.0**-40
    for choice in (*CHOICES[:2], Choice(temperature=1.0, top_p=1e-9), Choice(temperature=1e6)):
        assert sample(row, [choice], [0.0])[0] in (1, 2)
        assert sample(row, [choice], [almost_one])[0] in (1, 2)


rules = st.builds(
    Choice,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    top_k=st.sampled_from([0, 1, 5, 300]),
    min_p=st.sampled_from([0.0, 0.1]),
    presence_penalty=st.sampled_from([0.0, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    logit_bias=st.sampled_from([{}, {2: 5.0}]),
    output=st.sampled_from([{}, {1: 2}]),
)


@given(st.lists(st.tuples(rules, st.integers(0, 10**6)), min_size=1, max_size=17))
@settings(max_examples=60, deadline=None)
def test_a_row_does_not_see_its_neighbours(batch: list[tuple[Choice, int]]) -> None:
    generator = torch.Generator().manual_seed(batch[0][1])
    logits = torch.randn(len(batch), 500, generator=generator) * 2
    draws = [uniform(seed, 1) for _, seed in batch]
    together = sample(logits, [c for c, _ in batch], draws)
    alone = [
        sample(logits[i : i + 1].clone(), [c], [draws[i]])[0] for i, (c, _) in enumerate(batch)
    ]
    assert together == alone

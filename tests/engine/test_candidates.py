"""Drawing from a vocabulary so large that candidates are split rather than sorted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from everloop.engine.native import library
from everloop.engine.native.backend import Choice
from everloop.engine.native.compiled import CompiledBackend
from everloop.engine.native.noise import uniform
from everloop.engine.native.packed import open_packed
from tests.model.layouts import SIZES

VOCABULARY = 3001
DRAWS = 40

CHOICES = [
    Choice(temperature=1.0, top_p=0.9),
    Choice(temperature=0.7, top_p=0.5, min_p=0.01),
    Choice(temperature=1.0, top_k=700),
    Choice(temperature=1.0, top_k=49, top_p=0.99),
    Choice(temperature=1.0, top_k=2000, top_p=0.8, min_p=0.3),
    Choice(temperature=1.0, min_p=0.2),
    Choice(temperature=1.0, top_p=0.0),
    Choice(temperature=1.0, top_p=0.999999),
]


def rows() -> dict[str, npt.NDArray[np.float32]]:
    """Logits from flat to peaked; with many equal ones; with all equal."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(VOCABULARY)
    return {
        "flat": (0.1 * noise).astype(np.float32),
        "usual": (2 * noise).astype(np.float32),
        "peaked": (12 * noise).astype(np.float32),
        "ties": np.round(2 * noise).astype(np.float32),
        "equal": np.zeros(VOCABULARY, np.float32),
        "two levels": np.where(noise > 0, 0, -30).astype(np.float32),
    }


def sorted_draws(row: npt.NDArray[np.float32], choice: Choice, draws: list[float]) -> list[int]:
    """By the definitions, all sorted: the heaviest first, the lowest id among equals."""
    weights = np.exp((row - row.max()) / np.float32(choice.temperature)).astype(np.float64)
    order = np.lexsort((np.arange(len(row)), -weights))
    ranked = weights[order]
    if choice.top_k:
        ranked = ranked[: choice.top_k]
    sums = np.cumsum(ranked)
    stays = ranked >= choice.min_p
    if choice.top_p < 1:
        stays &= sums - ranked < float(np.float32(choice.top_p)) * sums[-1]
    stays[0] = True
    sums = np.cumsum(ranked[: stays.sum()])
    return [int(order[np.searchsorted(sums, u * sums[-1], side="right")]) for u in draws]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    LlamaForCausalLM(LlamaConfig(**{**SIZES, "vocab_size": VOCABULARY})).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("isa", ["avx512vnni", "avx2", "portable"])
def test_draws_what_sorting_would_draw(model: Path, isa: str, tmp_path: Path) -> None:
    try:
        library.load(isa)
    except library.Missing:
        pytest.skip(f"this processor doesn't run {isa}")
    packed = open_packed(model, None, bits=8, cache=tmp_path)
    backend = CompiledBackend(packed, blocks=2, threads=1, max_rows=64, isa=isa)
    edges = 0
    for name, row in rows().items():
        logits = np.ascontiguousarray(np.broadcast_to(row, (DRAWS, VOCABULARY)))
        for choice in CHOICES:
            samplers = [backend.sampler(choice, seed) for seed in range(DRAWS)]
            got = [token for [token] in backend.verify(logits, samplers, [()] * DRAWS)]
            draws = [uniform(seed, 0) for seed in range(DRAWS)]
            # On the edge between two tokens the exponentials' last digits count.
            near = [
                sorted_draws(row, choice, [min(max(u + d, 0.0), 1 - 2**-40) for u in draws])
                for d in (0.0, -1e-6, 1e-6)
            ]
            for mine, *theirs in zip(got, *near, strict=True):
                assert mine in theirs, (name, choice)
                edges += mine != theirs[0]
    assert edges < 20  # of 1,920

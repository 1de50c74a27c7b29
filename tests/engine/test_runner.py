"""The model over the block cache: equal to transformers, and bit for bit to itself."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from everloop.engine.native import runner as runner_module
from everloop.engine.native.backend import Rows
from everloop.engine.native.core import Core
from everloop.engine.native.eager import EagerBackend
from everloop.engine.native.linear import CANDIDATES, Kind
from everloop.engine.native.runner import Runner
from everloop.model import checkpoint
from everloop.model.transformer import Transformer
from tests.engine.conftest import drain, generate_job, ids_of
from tests.model.layouts import LAYOUTS, oracle_logits, sample_ids, saved

LENGTH, BLOCK = 90, 16


def runner_for(directory: Path) -> Runner:
    config, model = checkpoint.load(directory)
    return Runner(config, model, blocks=80, block_size=BLOCK)


def logits(runner: Runner, ids: list[int], chunks: list[int], first_block: int = 0) -> Tensor:
    """Logits of every position, computed in pieces of `chunks` tokens."""
    out, at = [], 0
    for size in chunks:
        piece = ids[at : at + size]
        table = list(range(first_block, first_block - (-(at + len(piece)) // BLOCK)))
        out.append(runner.head(runner.forward([Rows(ids=piece, start=at, table=table)])))
        at += len(piece)
    assert at == len(ids)
    return torch.cat(out)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_and_greedy_tokens_are_those_of_transformers(layout: str, tmp_path: Path) -> None:
    oracle = saved(layout, tmp_path / "model")
    runner = runner_for(tmp_path / "model")
    ids = sample_ids(40, 1)
    got = logits(runner, ids[0].tolist(), [33, 1, 6])
    assert (got - oracle_logits(oracle, ids)[0]).abs().max() <= 1e-4

    with torch.inference_mode():
        want = oracle.generate(  # type: ignore[operator]
            ids, max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0, 40:].tolist()
    core = Core(EagerBackend(runner), max_running=4, chunk=16)
    core.submit(generate_job(1, ids[0].tolist(), [b"x"] * 97, max_tokens=24))
    assert ids_of(drain(core)[1]) == want


def test_any_chunk_size_gives_the_same_bits(model_dir: Path) -> None:
    runner = runner_for(model_dir)
    ids = sample_ids(LENGTH, 1)[0].tolist()
    whole = logits(runner, ids, [LENGTH])
    for chunks in ([1] * LENGTH, [64, 26], [7] * 12 + [6], [33, 1, 1, 55], [16, 32, 42]):
        assert torch.equal(logits(runner, ids, chunks, first_block=20), whole), chunks


@pytest.mark.parametrize("seed", range(4))
def test_any_neighbours_give_the_same_bits(model_dir: Path, seed: int) -> None:
    """One sequence among 15 others that come, go and are cut at random."""
    runner = runner_for(model_dir)
    rng = random.Random(seed)
    mine = sample_ids(LENGTH, 1)[0].tolist()
    whole = logits(runner, mine, [LENGTH], first_block=70)
    texts = [mine, *([rng.randrange(97) for _ in range(rng.randint(1, 60))] for _ in range(15))]
    tables = [list(range(4 * i, 4 * i + 4)) for i in range(16)]
    tables[0] = [64, 65, 66, 67, 68, 69]
    at, parts = [0] * 16, []
    while at[0] < LENGTH:
        order = rng.sample(range(16), 16)
        batch = []
        for i in order:
            size = min(rng.choice([0, 1, 1, 1, 5, 23]), len(texts[i]) - at[i])
            if size:
                ids = texts[i][at[i] : at[i] + size]
                batch.append((i, Rows(ids=ids, start=at[i], table=tables[i])))
        if not batch:
            continue
        out = runner.head(runner.forward([rows for _, rows in batch]))
        row = 0
        for i, rows in batch:
            if i == 0:
                parts.append(out[row : row + len(rows.ids)])
            row += len(rows.ids)
            at[i] += len(rows.ids)
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("kind", CANDIDATES, ids=lambda k: k.name)
def test_every_kind_of_product_serves(
    model_dir: Path, model: Transformer, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "choose", lambda weights: kind)
    ids = sample_ids(30, 1)
    with torch.inference_mode():
        want = model(ids)[0]
    got = logits(runner_for(model_dir), ids[0].tolist(), [17, 1, 12])
    assert (got - want).abs().max() <= 1e-4


def test_attention_token_by_token_where_chunks_would_not_be_exact(model_dir: Path) -> None:
    runner = runner_for(model_dir)
    ids = sample_ids(LENGTH, 1)[0].tolist()
    want = logits(runner, ids, [LENGTH])
    runner.joint = False
    assert torch.equal(logits(runner, ids, [50, 40], first_block=20), want)


@pytest.mark.parametrize("threads", [1, 2])
def test_invariant_on_any_number_of_threads(model_dir: Path, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runner = runner_for(model_dir)
        ids = sample_ids(LENGTH, 1)[0].tolist()
        assert torch.equal(
            logits(runner, ids, [LENGTH]), logits(runner, ids, [1] * 5 + [80] + [5], 20)
        )
    finally:
        torch.set_num_threads(before)

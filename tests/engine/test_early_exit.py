"""Tokens that leave the model early: the same whoever else runs, counted, shared with nobody."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from everloop.engine.native.backend import Backend, Choice, Exit, Rows, Writer
from everloop.engine.native.compiled import CompiledBackend
from everloop.engine.native.core import Core
from everloop.model.rope import rope_tables
from everloop.model.transformer import Transformer
from tests.engine.conftest import MakeBackend, drain, eager_backend, generate_job, ids_of
from tests.engine.sequences import check
from tests.engine.small_exits import EXITS
from tests.engine.test_drafting import Case, always, answer, predictions, requests, run

MakeCore = Callable[..., Core]


@pytest.fixture
def make(make_core: MakeCore) -> MakeCore:
    def make_open(**options: int) -> Core:
        core = make_core(**options)
        core.backend.open_exits(EXITS)
        return core

    return make_open


def plainly(
    model: Transformer, prompt: list[int], count: int, layer: int, threshold: float
) -> tuple[list[int], int]:
    """What is written greedily, and how many tokens of it left early: everything computed anew for
    every token, a state that has left staying as it is in all layers above."""
    rule, tokens, exited = EXITS.gates[layer], list(prompt), 0
    into, offsets, out = (torch.from_numpy(v) for v in (rule.into, rule.offsets, rule.out))
    for _ in range(count):
        ids = torch.tensor([tokens])
        cos, sin = rope_tables(model.frequencies, torch.arange(len(tokens))[None])
        x = model.model.embed_tokens(ids)
        left = torch.zeros(len(tokens), dtype=torch.bool)
        for i, block in enumerate(model.model.layers):
            if i == layer:
                state = x[0] * (x[0].pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()
                scores = (state @ into.T + offsets).relu() @ out
                left = (scores >= threshold) & (torch.arange(len(tokens)) >= len(prompt))
            after, _ = block(x, cos[:, :, None], sin[:, :, None], None, None)
            x = torch.where(left[None, :, None], x, after)
        exited += int(left[-1])
        tokens.append(int(model.head(model.model.norm(x))[0, -1].argmax()))
    return tokens[len(prompt) :], exited


@pytest.mark.parametrize("layer", [1, 2])
def test_float32_writes_what_the_definition_says(
    exact_core: MakeCore, model: Transformer, table: list[bytes], layer: int
) -> None:
    core = exact_core()
    core.backend.open_exits(EXITS)
    with torch.inference_mode():
        for seed in range(4):
            prompt = random.Random(seed).choices(range(300), k=9)
            want, exited = plainly(model, prompt, 30, layer, 0.0)
            job = generate_job(1, prompt, table, 30, exit=(layer, 0.0))
            tokens, used = answer(core, job)
            assert tokens == want
            assert used[5] == exited
    assert 0 < exited < 30


def leaving(count: int, rng: random.Random) -> list[Case]:
    """Requests of all kinds, two of three of which may leave, after one layer or two."""
    cases = requests(count, rng)
    for i, case in enumerate(cases):
        if i % 3:
            case.options["exit"] = (rng.choice((1, 2)), rng.choice((-0.5, 0.0, 0.5)))
    return cases


@pytest.mark.parametrize(
    "options",
    [{"chunk": 7, "max_running": 5}, {"tokens": 352, "max_running": 6}],
    ids=["few", "thrown-out"],
)
def test_company_chunks_and_drafts_change_nothing(
    make: MakeCore, make_core: MakeCore, table: list[bytes], options: dict[str, int]
) -> None:
    rng = random.Random(repr(options))
    cases = leaving(15, rng)
    alone = [run(make(drafting=False), [case], table)[0] for case in cases]
    assert run(make(**options, drafting=False), cases, table) == alone
    for case in cases:
        case.options["prediction"] = predictions(case.tokens, rng)
    drafting = make(**options)
    verified = always(drafting, rng)
    assert run(drafting, cases, table) == alone
    assert len(verified) > 10
    # Those who did not ask get what they get where nobody may leave.
    exact = [case for case in cases if "exit" not in case.options]
    for case in exact:
        case.options.pop("prediction")
    plain = run(make_core(**options, drafting=False), exact, table)
    assert plain == [got for got, case in zip(alone, cases, strict=True) if case in exact]


def test_writing_in_one_go_is_writing_step_by_step(make_backend: MakeBackend) -> None:
    backend = make_backend(1024)
    if not isinstance(backend, CompiledBackend):
        pytest.skip("only the compiled kernels write several steps in one call")
    backend.open_exits(EXITS)
    job = generate_job(1, [5], [b""] * 400, exit=(1, 0.0))
    assert job.exit is not None

    def writers(count: int) -> list[Writer]:
        return [
            Writer(
                id=i + 1,
                position=0,
                table=[2 * i, 2 * i + 1],
                sampler=backend.sampler(Choice(temperature=0.9), seed=i),
                ends=frozenset(),
                exit=None if i % 3 == 2 else job.exit,
            )
            for i in range(count)
        ]

    for count in (1, 2, 7):
        fast = backend.write(writers(count), 40)
        assert all(len(left) == 40 for left in fast.left)
        assert {True, False} == set(fast.left[0])
        assert not any(any(fast.left[i]) for i in range(2, count, 3))
        assert fast == Backend.write(backend, writers(count), 40)
    exact = [Writer(**{f: getattr(w, f) for f in ("id", "position", "table", "sampler", "ends")})
             for w in writers(3)]  # fmt: skip
    assert backend.write(exact, 5).left == [[], [], []]


def test_quantized_weights_judge_as_the_model_does(
    make_backend: MakeBackend, model_dir: Path
) -> None:
    seen = []
    for backend in (eager_backend(model_dir, 512), make_backend(512)):
        backend.open_exits(EXITS)
        for layer in (1, 2):
            ids = random.Random(layer).choices(range(300), k=100)
            backend.forward([Rows(ids=ids, start=0, table=range(7), exit=Exit(layer, 0.0, 0))])
            seen.append(backend.left())
    for exact, quantized in zip(seen[:2], seen[2:], strict=True):
        assert 5 < sum(exact) < 95
        assert sum(a == b for a, b in zip(exact, quantized, strict=True)) >= 80


def test_threads_change_no_bit(make_backend: MakeBackend) -> None:
    backend = make_backend(1024)
    if not isinstance(backend, CompiledBackend):
        pytest.skip("only the compiled kernels divide a step themselves")
    seen = []
    for threads in (1, 2, 3):
        other = CompiledBackend(backend._packed, blocks=32, threads=threads, max_rows=256)
        other.open_exits(EXITS)
        rng = random.Random(1)
        jobs = [generate_job(i, [5], [b""] * 400, exit=(1 + i % 2, 0.0)) for i in range(5)]
        batch = [
            Rows(ids=rng.choices(range(300), k=3 + 5 * i), start=0, table=[i], exit=jobs[i].exit)
            for i in range(5)
        ]
        assert all(other.forward(batch))
        rows = sum(len(r.ids) for r in batch)
        seen.append((other.left(), other.logits(range(rows)).copy()))
        assert 0 < sum(seen[0][0]) < rows
    for left, logits in seen[1:]:
        assert left == seen[0][0]
        assert np.array_equal(logits, seen[0][1])


def test_everyone_or_nobody_leaves(make: MakeCore, make_core: MakeCore, table: list[bytes]) -> None:
    prompt = list(range(20, 40))
    exact, used = answer(make_core(), generate_job(1, prompt, table, 40))
    assert len(used) == 3
    same, used = answer(make(), generate_job(1, prompt, table, 40, exit=(2, math.inf)))
    assert same == exact
    assert used[2:] == (0, 0, 0, 0)
    tokens, used = answer(make(), generate_job(1, prompt, table, 40, exit=(1, -math.inf)))
    assert used[5] == 39  # the first comes from the prompt, which nobody shortens
    assert tokens[0] == exact[0]
    assert tokens != exact


def test_what_was_left_out_is_shared_with_nobody(
    make: MakeCore, make_core: MakeCore, table: list[bytes]
) -> None:
    core = make()
    prompt = [7, 8, 9] * 30
    tokens, _ = answer(core, generate_job(1, prompt, table, 100, exit=(1, -math.inf)))
    size = core.backend.block_size
    more = [*prompt, *tokens, 5]
    found, used = answer(core, generate_job(2, more, table, 20))
    assert used[2] == len(prompt) // size * size
    assert (found, used[:2]) == (
        answer(make_core(), generate_job(2, more, table, 20))[0],
        (191, 20),
    )
    # Nor does an approximate request go on from what an exact one wrote after the same prompt.
    core = make()
    answer(core, generate_job(1, prompt, table, 100))
    again, used = answer(core, generate_job(2, prompt, table, 100, exit=(1, 0.0)))
    assert used[2] == (len(prompt) - 1) // size * size
    assert again == answer(make(), generate_job(2, prompt, table, 100, exit=(1, 0.0)))[0]
    assert core.blocks.used == 0
    check(core.scheduler)


def test_a_cancelled_request_tells_how_many_left(make: MakeCore, table: list[bytes]) -> None:
    core = make()
    core.submit(generate_job(1, [5, 6, 7], table, 200, exit=(1, -math.inf)))
    for _ in range(4):
        core.step()
    used = core.cancel(1)
    assert used is not None
    assert used[5] == used[1] - 1 > 0
    assert core.blocks.used == 0


def test_a_stop_string_ends_the_count(make: MakeCore, table: list[bytes]) -> None:
    """Steps of one go that come after the end are nobody's tokens."""
    core = make()
    prompt = list(range(20, 40))
    events = drain(core, generate_job(1, prompt, table, 40, exit=(1, -math.inf)))[1]
    words = [table[t].decode() for t in ids_of(events)[3:25] if table[t].isascii() and table[t]]
    stopped = generate_job(2, prompt, table, 40, exit=(1, -math.inf), stop=words[:1])
    _, used = answer(core, stopped)
    assert used[5] == used[1] - 1 < 39

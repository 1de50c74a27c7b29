"""How far is drafted, on a machine of known speed: as far as it makes more tokens a second."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from everloop.engine.native import core as core_module
from everloop.engine.native.backend import Backend, Choice, Rows, Writer, Written
from everloop.engine.native.compiled import CompiledBackend
from everloop.engine.native.core import Core
from everloop.engine.native.drafting import Drafting
from everloop.engine.native.packed import PackedModel, open_packed
from tests.engine.conftest import drain, generate_job, ids_of
from tests.engine.test_core import hot

Timed = Callable[..., tuple[float, int, list[list[int]]]]


class Machine:
    """A backend on a machine whose speed is known: `base` seconds a step and `row` for each row."""

    def __init__(self, backend: Backend, base: float, row: float) -> None:
        self.backend, self.now, self.rows = backend, 0.0, 0
        forward, write = backend.forward, backend.write

        def forwards(batch: list[Rows]) -> list[bool]:
            rows = sum(len(rows.ids) for rows in batch)
            self.rows += rows
            self.now += base + row * rows
            return forward(batch)

        def writes(writers: list[Writer], steps: int) -> Written:
            before, rows = self.now, self.rows
            made = write(writers, steps)
            self.rows = rows + made.rows
            self.now = before + made.steps * base + row * made.rows
            return made

        backend.forward = forwards  # type: ignore[method-assign,assignment]
        backend.write = writes  # type: ignore[method-assign,assignment]


@pytest.fixture(scope="module")
def packed(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedModel:
    return open_packed(model_dir, None, bits=8, cache=tmp_path_factory.mktemp("packed"))


@pytest.fixture
def timed(packed: PackedModel, table: list[bytes], monkeypatch: pytest.MonkeyPatch) -> Timed:
    """Simulated seconds, rows and outputs of some jobs, all prompts read before."""

    def work(
        jobs: list[dict[str, object]], *, base: float, row: float, drafting: bool
    ) -> tuple[float, int, list[list[int]]]:
        backend = CompiledBackend(packed, blocks=128, threads=1, max_rows=1024)
        machine = Machine(backend, base, row)
        clock = SimpleNamespace(perf_counter=lambda: machine.now)
        monkeypatch.setattr(core_module, "time", clock)
        core = Core(machine.backend, max_running=16, chunk=512, drafting=drafting)
        before = generate_job(99, [1, 2, 3], table, 60, choice=hot(), seed=1)
        drain(core, before)  # so that the machine is known
        for i, options in enumerate(jobs):
            core.submit(generate_job(i, table=table, **options))  # type: ignore[arg-type]
        first = {event.key: ids_of([event]) for event in core.step()}
        began, rows = machine.now, machine.rows
        events = drain(core)
        return (
            machine.now - began,
            machine.rows - rows,
            [first[i] + ids_of(events[i]) for i in range(len(jobs))],
        )

    return work


def stirred(seed: int) -> dict[str, object]:
    """A request whose text nobody can guess."""
    rng = random.Random(seed)
    ids = [rng.randrange(300) for _ in range(40)]
    return {"prompt": ids, "max_tokens": 150, "choice": Choice(temperature=3.0), "seed": seed}


@pytest.mark.parametrize("row", [0.00002, 0.0002, 0.001])
@pytest.mark.parametrize("count", [1, 6])
def test_text_that_cannot_be_drafted_costs_nothing(timed: Timed, row: float, count: int) -> None:
    jobs = [stirred(seed) for seed in range(count)]
    plain, rows, want = timed(jobs, base=0.001, row=row, drafting=False)
    seconds, more, got = timed(jobs, base=0.001, row=row, drafting=True)
    assert got == want
    assert seconds < plain / 0.97
    assert more < 1.05 * rows


def test_a_useless_prediction_is_given_up(
    timed: Timed,
) -> None:
    job = stirred(1)
    plain, rows, want = timed([job], base=0.001, row=0.0002, drafting=False)
    rng = random.Random(9)
    job["prediction"] = [rng.randrange(300) for _ in range(150)]
    seconds, more, got = timed([job], base=0.001, row=0.0002, drafting=True)
    assert got == want
    assert seconds < 1.1 * plain
    assert more < 1.5 * rows


@pytest.mark.parametrize(("row", "times"), [(0.00002, 8.0), (0.0001, 4.0), (0.0003, 2.0)])
def test_a_prediction_with_three_changes_pays(timed: Timed, row: float, times: float) -> None:
    job = stirred(2)
    plain, _, [want] = timed([job], base=0.001, row=row, drafting=False)
    predicted = list(want)
    for at in (25, 75, 125):
        predicted[at] = (predicted[at] + 1) % 300
    job["prediction"] = predicted
    seconds, _, got = timed([job], base=0.001, row=row, drafting=True)
    assert got == [want]
    assert seconds < plain / times


def test_where_rows_cost_as_much_as_steps_nothing_is_drafted(
    timed: Timed,
) -> None:
    job = stirred(3)
    plain, rows, [want] = timed([job], base=0.0, row=0.001, drafting=False)
    job["prediction"] = want
    seconds, more, got = timed([job], base=0.0, row=0.001, drafting=True)
    assert got == [want]
    assert seconds < plain / 0.97
    assert more < 1.1 * rows


def test_others_lose_nothing_by_a_neighbours_drafts(
    timed: Timed,
) -> None:
    jobs = [stirred(seed) for seed in range(4)]
    plain, _, want = timed(jobs, base=0.001, row=0.0001, drafting=False)
    jobs[2]["prediction"] = want[2]
    seconds, _, got = timed(jobs, base=0.001, row=0.0001, drafting=True)
    assert got == want
    assert seconds < 1.001 * plain


def test_the_longest_part_of_a_likely_draft_is_taken_before_an_unlikely_one() -> None:
    drafting = Drafting(1000)
    drafting.costs.wrote(2, 8, 8 * 1.0)
    for rows in (2, 8, 20) * 10:
        drafting.costs.drafted(2, rows, 1.0 + 0.1 * rows)
    chances = [[0.9**n for n in range(1, 16)], [0.2, 0.04, 0.01]]
    first, second = drafting.lengths(2, 1.2, chances)
    assert 5 < first < 15
    assert second == 0
    assert drafting.lengths(2, 0.1, chances) == [0, 0]  # writing plainly is far faster
    assert drafting.lengths(2, 1e9, [[0.01], [0.02]]) != [0, 0]  # anything is better


def test_nobody_becomes_much_slower_for_anothers_drafts() -> None:
    drafting = Drafting(1000)
    drafting.costs.wrote(16, 8, 8 * 1.0)
    for rows in (17, 40, 200) * 10:
        drafting.costs.drafted(16, rows, 0.2 + 0.05 * rows)
    certain = [1.0] * 17
    alone = sum(drafting.lengths(16, 1.0, [certain] * 4))
    assert 0.2 + 0.05 * (16 + alone) == pytest.approx(2.25, abs=0.1)
    assert drafting.lengths(16, 1.0, [certain] * 16) == [17] * 16  # all become faster


def test_steps_that_are_long_anyway_are_for_nobody_alone() -> None:
    drafting = Drafting(1000)
    drafting.costs.wrote(4, 8, 8 * 1.0)
    for rows in (5, 10, 20) * 10:
        drafting.costs.drafted(4, rows, 2.6 + 0.01 * rows)
        drafting.costs.single(4, 2.6)
    assert drafting.lengths(4, 1.0, [[1.0] * 17]) == [0]


def test_rows_of_logits_are_bounded() -> None:
    drafting = Drafting(150_000)
    drafting.costs.wrote(32, 8, 8 * 1.0)
    taken = drafting.lengths(32, 1.0, [[1.0] * 15] * 32)
    assert sum(taken) == 64 * 2**20 // 600_000 - 32

"""The budget of prompt tokens on pretended machines whose steps take a known time."""

from __future__ import annotations

import random
import statistics

import pytest

from everloop.engine.native.blocks import BlockManager
from everloop.engine.native.pace import SLOWDOWN, SMALLEST, UNSEEN, Pace
from everloop.engine.native.scheduler import Scheduler
from tests.engine.sequences import sequence

MACHINES = {
    "small model": (300e-6, 20e-6, 40e-6),
    "large model": (25e-3, 2e-3, 1e-3),
    "slow prompts": (4e-3, 0.0, 10e-3),
}
"""Seconds of a step, and on top for each stream and each prompt token."""


def seconds(machine: str, streams: int, prompt: int) -> float:
    fixed, stream, token = MACHINES[machine]
    return fixed + stream * streams + token * prompt


def allowed(machine: str, streams: int) -> float:
    return max(SLOWDOWN * seconds(machine, streams, 0), UNSEEN)


def test_alone_a_prompt_gets_the_most() -> None:
    pace = Pace(512)
    assert pace.budget(0) == pace.budget(5) == 512  # nothing is known yet
    pace.observe(512, 0, 1.0)
    pace.observe(0, 4, 0.001)
    assert pace.budget(0) == 512
    assert pace.budget(4) == SMALLEST


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_beside_streams_a_step_takes_no_longer_than_allowed(machine: str, noise: float) -> None:
    pace, rng = Pace(512), random.Random(0)
    for _ in range(5):
        pace.observe(512, 0, seconds(machine, 0, 512))
    for _ in range(20):
        pace.observe(0, 16, seconds(machine, 16, 0) * rng.uniform(1, 1 + noise), 1)
    for i in range(100):
        budget = pace.budget(16)
        took = seconds(machine, 16, budget)
        if budget > SMALLEST and i >= 3:
            assert took <= (1 + noise) * allowed(machine, 16)
        assert SMALLEST <= budget <= 512
        assert budget % SMALLEST == 0
        pace.observe(budget, 16, took * rng.uniform(1, 1 + noise))
    more = seconds(machine, 16, budget + 2 * SMALLEST)
    assert more > (1 - 2 * noise) * allowed(machine, 16)  # and not much less either


def test_prompts_that_cost_nothing_get_the_most() -> None:
    pace = Pace(300)
    pace.observe(0, 2, 0.01)
    for _ in range(10):
        pace.observe(pace.budget(2), 2, 0.01)
    assert pace.budget(2) == 300


def test_one_outlier_changes_little_and_a_new_load_is_learnt() -> None:
    pace = Pace(4096)
    for _ in range(30):
        pace.observe(0, 8, 0.010)
        pace.observe(100, 8, 0.020)
    usual = pace.budget(8)
    pace.observe(0, 8, 10.0)
    assert pace.budget(8) <= 1.3 * usual
    for _ in range(30):
        pace.observe(0, 8, 0.010)
        pace.observe(100, 8, 0.110)  # a prompt token takes ten times as long
    assert pace.budget(8) == pytest.approx(usual / 10, abs=SMALLEST)


def test_several_steps_in_one_go_count_each() -> None:
    one, many = Pace(512), Pace(512)
    for pace, seconds, steps in ((one, 0.010, 1), (many, 0.080, 8)):
        pace.observe(0, 4, seconds, steps)
        pace.observe(64, 4, 0.040)
    assert one.budget(4) == many.budget(4) == 24


def test_an_unknown_number_of_streams_is_like_the_nearest_known() -> None:
    pace = Pace(4096)
    for streams in (1, 10, 30):
        pace.observe(0, streams, 0.01 * streams)
    pace.observe(100, 10, 0.2)
    assert pace.budget(4) == pace.budget(1) < pace.budget(12) == pace.budget(10)
    assert pace.budget(21) == pace.budget(30) > pace.budget(12)


@pytest.mark.parametrize("machine", ["small model", "large model"])
def test_a_long_prompt_among_running_streams_leaves_them_smooth(machine: str) -> None:
    s = Scheduler(BlockManager(512, 16), max_running=32, chunk=512)
    fresh = iter(range(10**9)).__next__
    rng = random.Random(0)

    def step() -> float:
        plan = s.plan()
        prompt = sum(p.length for p in plan if p.length > 1)
        streams = sum(p.length == 1 for p in plan)
        took = seconds(machine, streams, prompt) * rng.uniform(1, 1.1)
        s.advance(plan)
        s.observe(prompt, streams, took)
        for piece in plan:
            if not piece.sequence.left:
                piece.sequence.tokens.append(fresh())
        return took

    for _ in range(16):
        s.add(sequence([fresh() for _ in range(40)], samples=True))
    while any(one.left > 1 for one in s.running) or s.waiting:
        step()
    before = statistics.median(step() for _ in range(40))
    s.add(prompt := sequence([fresh() for _ in range(2000)], samples=True))
    gaps = [step()]
    while prompt.left > 1:
        gaps.append(step())
    while len(gaps) < 200:
        gaps.append(step())
    most = max(3 * before, 1.2 * UNSEEN)
    assert sorted(gaps)[int(0.99 * len(gaps))] <= most
    assert sum(gap > most for gap in gaps) <= 1

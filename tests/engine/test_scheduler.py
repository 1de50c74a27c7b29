"""The scheduler alone, with a pretended model that computes nothing."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from everloop.engine.native.blocks import BlockManager
from everloop.engine.native.jobs import EmbedJob, Job, ScoreJob
from everloop.engine.native.scheduler import Scheduler
from everloop.engine.native.sequence import Piece, Prefix, Sequence

BLOCK = 4


def sequence(tokens: int, prefix: Prefix | None = None, *, samples: bool = False) -> Sequence:
    job: Job = EmbedJob(1, texts=[[0] * tokens])
    made = job.sequences[0]
    made.prefix, made.samples = prefix, samples
    return made


def scheduler(blocks: int = 16, *, max_running: int = 4, chunk: int = 8) -> Scheduler:
    return Scheduler(BlockManager(blocks, BLOCK), max_running=max_running, chunk=chunk)


def lengths(pieces: list[Piece]) -> list[int]:
    return [p.length for p in pieces]


def test_a_long_prompt_is_cut_and_streams_go_on_beside_it() -> None:
    s = scheduler()
    stream, prompt = sequence(3, samples=True), sequence(20)
    s.add(stream)
    s.add(prompt)
    plan = s.plan()
    assert lengths(plan) == [3, 5]  # together the chunk of 8
    s.advance(plan)
    for expected in ([1, 8], [1, 7]):
        stream.tokens.append(0)
        plan = s.plan()
        assert lengths(plan) == expected  # the stream's token costs the prompt nothing
        s.advance(plan)
    assert prompt.left == 0


def test_arrival_order_and_the_bound_on_running() -> None:
    s = scheduler(max_running=2)
    first, second, third = (sequence(2) for _ in range(3))
    for one in (first, second, third):
        s.add(one)
    assert [p.sequence for p in s.plan()] == [first, second]
    s.remove(first)
    assert [p.sequence for p in s.plan()] == [second, third]


def test_the_youngest_gives_way_and_starts_again() -> None:
    s = scheduler(blocks=5, chunk=64)
    old, young = sequence(8, samples=True), sequence(8)
    s.add(old)
    s.add(young)
    s.advance(s.plan())
    assert s.blocks.free == 1
    for _ in range(5):  # the old one needs a third block, then a fourth
        old.tokens.append(0)
        s.advance(s.plan())
    assert s.running == [old]
    assert list(s.waiting) == [young]
    assert (young.computed, young.blocks) == (0, [])
    s.remove(old)
    assert lengths(s.plan()) == [8]


def test_a_prefix_is_computed_once_and_shared() -> None:
    s = scheduler(chunk=64)
    prefix = Prefix(length=8)
    parts = [sequence(10, prefix) for _ in range(3)]
    for part in parts:
        s.add(part)
    plan = s.plan()
    assert lengths(plan) == [10]  # the others wait for it
    s.advance(plan)
    plan = s.plan()
    assert lengths([p for p in plan if p.sequence is not parts[0]]) == [2, 2]
    assert parts[1].blocks[:2] == parts[2].blocks[:2] == parts[0].blocks[:2]
    assert parts[1].cached == 8
    for part in parts:
        s.remove(part)
    assert s.blocks.used == 0


def test_a_prefix_whose_filler_goes_is_filled_by_the_next() -> None:
    s = scheduler(chunk=4)
    prefix = Prefix(length=8)
    first, second = sequence(10, prefix), sequence(10, prefix)
    s.add(first)
    s.add(second)
    s.advance(s.plan())
    s.remove(first)
    assert [p.sequence for p in s.plan()] == [second]
    s.remove(second)
    assert s.blocks.used == 0


def test_what_waits_for_its_prefix_holds_nobody_else_up() -> None:
    s = scheduler(chunk=4)
    prefix = Prefix(length=8)
    s.add(sequence(10, prefix))
    s.add(sequence(10, prefix))
    s.advance(s.plan())
    s.advance(s.plan())
    other = sequence(2)
    s.add(other)
    s.waiting.rotate(-1)
    assert other in [p.sequence for p in s.plan()] or other in s.waiting


class Steps(RuleBasedStateMachine):
    """Random submits, steps, finishes and cancels over few blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.s = scheduler(blocks=10, max_running=3, chunk=6)
        self.alive: list[Sequence] = []

    @rule(tokens=st.integers(1, 30), samples=st.booleans())
    def submit(self, tokens: int, samples: bool) -> None:
        made = sequence(tokens, samples=samples)
        self.alive.append(made)
        self.s.add(made)

    @rule(prompt=st.integers(1, 20), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
    def submit_score(self, prompt: int, sizes: list[int]) -> None:
        job = ScoreJob(
            1, prompt=[0] * prompt, continuations=[[0] * n for n in sizes], block_size=BLOCK
        )
        for made in job.sequences:
            self.alive.append(made)
            self.s.add(made)

    @rule()
    def step(self) -> None:
        plan = self.s.plan()
        assert sum(p.length for p in plan if p.length > 1) <= self.s.chunk
        assert bool(plan) == bool(self.alive)  # never stuck
        for piece in plan:
            assert piece.sequence in self.s.running
            covered = len(piece.sequence.blocks) * BLOCK
            assert covered >= piece.start + piece.length
            assert piece.start == piece.sequence.computed
        # Nobody writes into a block that another one reads.
        written = Counter(
            p.sequence.blocks[i // BLOCK]
            for p in plan
            for i in range(p.start, p.start + p.length, BLOCK)
        )
        assert all(count == 1 for count in written.values())
        self.s.advance(plan)
        for piece in plan:
            one = piece.sequence
            if one.left:
                continue
            if one.samples and len(one.tokens) < 36:
                one.tokens.append(0)
            else:
                self.alive.remove(one)
                self.s.remove(one)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.alive))
        self.alive.remove(one)
        self.s.remove(one)

    @invariant()
    def no_block_leaks(self) -> None:
        assert len(self.s.running) <= self.s.max_running
        assert set(self.s.running) | set(self.s.waiting) == set(self.alive)
        assert all(not one.blocks for one in self.s.waiting)
        held = {b for one in self.s.running for b in one.blocks}
        shared = {b for p in self.s._prefixes for b in p.blocks or ()}
        assert self.s.blocks.used == len(held | shared)
        if not self.alive:
            assert self.s.blocks.used == 0

    def teardown(self) -> None:
        for _ in range(2000):
            if not self.alive:
                break
            self.step()
        assert not self.alive, "everyone gets finished"
        assert self.s.blocks.used == 0


TestSteps = Steps.TestCase
TestSteps.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)

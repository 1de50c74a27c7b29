"""The scheduler alone, with a pretended model that computes nothing."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from everloop.engine.native.blocks import BlockManager
from everloop.engine.native.scheduler import Scheduler
from everloop.engine.native.sequence import Piece, Sequence
from tests.engine.sequences import BLOCK, check, sequence

fresh = iter(range(10**9)).__next__


def alone(tokens: int, **options: object) -> Sequence:
    """A sequence that has nothing in common with any other."""
    return sequence([fresh() for _ in range(tokens)], **options)  # type: ignore[arg-type]


def scheduler(blocks: int = 16, *, max_running: int = 4, chunk: int = 8) -> Scheduler:
    return Scheduler(BlockManager(blocks, BLOCK), max_running=max_running, chunk=chunk)


def lengths(pieces: list[Piece]) -> list[int]:
    return [p.length for p in pieces]


def step(s: Scheduler, *, until: int = 10**9) -> list[Piece]:
    """One step; streams write one more token, and end with `until` of them."""
    plan = s.plan()
    s.advance(plan)
    for piece in plan:
        one = piece.sequence
        if one.left:
            continue
        if one.samples and len(one.tokens) < until:
            one.tokens.append(fresh())
        else:
            s.remove(one)
    return plan


def test_a_long_prompt_is_cut_and_streams_go_on_beside_it() -> None:
    s = scheduler()
    stream, prompt = alone(3, samples=True), alone(20)
    s.add(stream)
    s.add(prompt)
    assert lengths(step(s)) == [3, 5]  # together the chunk of 8
    assert lengths(step(s)) == [1, 8]  # the stream's token costs the prompt nothing
    assert lengths(step(s)) == [1, 7]
    assert prompt.blocks == []


def test_arrival_order_and_the_bound_on_running() -> None:
    s = scheduler(max_running=2)
    first, second, third = (alone(2) for _ in range(3))
    for one in (first, second, third):
        s.add(one)
    assert [p.sequence for p in s.plan()] == [first, second]
    assert not s.idle_waiting
    s.remove(first)
    assert s.idle_waiting
    assert [p.sequence for p in s.plan()] == [second, third]
    assert not s.idle_waiting


def test_the_youngest_gives_way_and_goes_on_where_memory_was_not_needed() -> None:
    s = scheduler(blocks=5, chunk=64)
    old, young = alone(8, samples=True), alone(8, samples=True)
    s.add(old)
    s.add(young)
    step(s)
    assert s.blocks.free == 1
    s.add(other := alone(12))
    step(s)  # the old one takes the last block; then nothing is left for the young one
    assert s.running == [old]
    assert list(s.waiting) == [young, other]
    assert (young.computed, young.blocks, young.left) == (0, [], 9)
    assert s.blocks.free == 2
    check(s)
    s.remove(old)
    assert [(p.start, p.length) for p in s.plan()] == [(8, 1)]  # nothing was lost
    assert young.cached == 0  # of its own work


def test_a_preempted_sequence_begins_again_when_its_blocks_went_to_others() -> None:
    s = scheduler(blocks=5, chunk=64)
    old, young = alone(8, samples=True), alone(8, samples=True)
    s.add(old)
    s.add(young)
    for _ in range(8):
        step(s)
    assert s.running == [old]
    assert len(old.blocks) == 4
    s.remove(old)
    s.add(other := alone(16))
    s.waiting.remove(young)
    s.waiting.add(young)
    assert [p.sequence for p in step(s)] == [other]
    assert [(p.start, p.length) for p in step(s)] == [(0, 9)]


def test_who_shares_a_prefix_waits_for_it_and_holds_nobody_else_up() -> None:
    s = scheduler(chunk=4, max_running=8)
    text = [fresh() for _ in range(10)]
    first, second, third = (sequence([*text, i]) for i in range(3))
    other = alone(2)
    for one in (first, second, third, other):
        s.add(one)
    assert [(p.sequence, p.length) for p in step(s)] == [(first, 4)]
    assert not s.idle_waiting or s._next(())[0] is other  # type: ignore[index]
    assert [(p.sequence, p.length) for p in step(s)] == [(first, 4)]
    # Both blocks are there.
    assert [(p.sequence, p.length) for p in step(s)] == [(first, 3), (second, 1)]
    assert [(p.sequence, p.length) for p in step(s)] == [(second, 2), (third, 2)]
    assert (first.cached, second.cached, third.cached) == (0, 8, 8)


def test_a_prefix_whose_writer_goes_is_written_by_the_next() -> None:
    s = scheduler(chunk=4)
    text = [fresh() for _ in range(10)]
    first, second = sequence(text), sequence(text)
    s.add(first)
    s.add(second)
    step(s)
    s.remove(first)
    assert [(p.sequence, p.start, p.length) for p in s.plan()] == [(second, 4, 4)]
    s.remove(second)
    check(s)
    assert s.blocks.used == 0


def test_a_tenant_with_a_hundred_requests_does_not_keep_another_one_waiting() -> None:
    s = scheduler(blocks=64, max_running=4)
    for _ in range(100):
        s.add(alone(4, tenant="many", samples=True))
    for _ in range(9):
        step(s, until=12)
    single = alone(4, tenant="one", samples=True)
    s.add(single)
    done = 0
    while not single.blocks:
        done += sum(len(p.sequence.tokens) >= 12 for p in step(s, until=12))
    assert done <= 4  # the next place was its own
    assert len(s.waiting) > 80


def test_a_long_prompt_shares_the_budget_with_other_tenants() -> None:
    s = scheduler(blocks=512, chunk=64, max_running=8)
    long, short = alone(1500, tenant="long"), alone(20, tenant="short")
    s.add(long)
    step(s)
    s.add(alone(20, tenant="long"))
    s.add(short)
    plan = step(s)
    assert [(p.sequence, p.length) for p in plan] == [(long, 44), (short, 20)]
    assert s.running == [long]
    assert lengths(step(s)) == [64]
    assert len(s.waiting) == 1  # its own next one waits for it


def test_written_tokens_count_while_and_after_a_sequence_runs() -> None:
    s = scheduler(blocks=64, max_running=4, chunk=64)
    for _ in range(3):
        s.add(alone(4, tenant="a", samples=True))
    for _ in range(9):
        step(s)
    for tenant in "aabb":
        s.add(alone(4, tenant=tenant, samples=True))
    step(s)
    assert [one.job.tenant for one in s.running] == ["a", "a", "a", "b"]
    for one in s.running[:3]:
        s.remove(one)
    step(s)
    assert [one.job.tenant for one in s.running] == ["b", "b", "a", "a"]

    s = scheduler(blocks=64, max_running=1, chunk=64)
    served: Counter[str] = Counter()
    for _ in range(300):
        for tenant, prompt in (("reads", 40), ("writes", 2)):
            if sum(one.job.tenant == tenant for one in s.waiting) < 2:
                s.add(alone(prompt, tenant=tenant, samples=tenant == "writes"))
        for piece in step(s, until=42):
            served[piece.sequence.job.tenant] += piece.length
    assert served["reads"] == pytest.approx(served["writes"], abs=100)


def test_an_admission_leaves_a_block_for_each_running_stream() -> None:
    s = scheduler(blocks=7, chunk=64)
    s.add(stream := alone(4, samples=True))
    step(s)
    s.add(one := alone(17))
    assert lengths(step(s)) == [1]
    assert not one.blocks
    looked: list[Sequence] = []
    s.tree.find = looked.append  # type: ignore[assignment,method-assign]
    assert lengths(step(s)) == [1]
    assert not looked  # until something changes, nobody looks again
    del s.tree.find
    s.remove(stream)
    assert lengths(step(s)) == [17]


def test_tenants_get_equal_shares_in_tokens() -> None:
    s = scheduler(blocks=256, max_running=4, chunk=64)
    rng = random.Random(0)
    served: Counter[str] = Counter()
    for turn in range(3000):
        for tenant, size in (("a", 4), ("b", 16), ("c", 40)):
            if sum(one.job.tenant == tenant for one in s.waiting) < 3:
                s.add(alone(rng.randint(1, 2 * size), tenant=tenant, samples=True))
        for piece in step(s, until=rng.randint(1, 60)):
            if turn >= 100:
                served[piece.sequence.job.tenant] += piece.length
    mean = sum(served.values()) / 3
    assert all(abs(count - mean) < 0.1 * mean for count in served.values()), served


def test_reserved_steps_need_no_plan() -> None:
    s = scheduler(blocks=11, chunk=64)
    one, two = alone(4, samples=True), alone(7, samples=True)
    s.add(one)
    s.add(two)
    assert s.reserve(8, {}) == 0  # not before their prompts are read
    step(s)
    assert s.reserve(1, {}) == 1
    assert s.reserve(6, {}) == 6
    assert [len(one.blocks), len(two.blocks)] == [3, 4]
    assert s.reserve(6, {}) == 6
    assert s.blocks.used == 7
    assert s.reserve(64, {}) == 16  # what memory allows: half of the half, and so on
    assert s.reserve(17, {}) == 16
    assert s.blocks.free == 0
    check(s)
    for each in (one, two):
        each.tokens += [fresh() for _ in range(12)]
        each.computed += 12
    assert lengths(s.plan()) == [1, 1]
    s.add(alone(3))
    assert s.reserve(2, {}) == 2  # whoever waits doesn't fit
    s.remove(one)
    assert s.reserve(2, {}) == 0  # now it does


def test_room_for_drafts_takes_only_what_is_free() -> None:
    s = scheduler(blocks=5, chunk=64)
    one, two = alone(4, samples=True), alone(6, samples=True)
    s.add(one)
    s.add(two)
    step(s)
    assert s.blocks.free == 2
    assert s.room(two, 2) == 2
    assert s.blocks.free == 2
    assert s.room(one, 4) == 4
    assert s.blocks.free == 1
    assert s.room(one, 100) == 8
    assert s.room(two, 5) == 2
    assert s.blocks.free == 0
    check(s)


@pytest.mark.parametrize("seed", range(3))
def test_everyone_is_served_in_the_end(seed: int) -> None:
    rng = random.Random(seed)
    s = scheduler(blocks=12, max_running=3, chunk=6)
    everyone = []
    for _ in range(200):
        tenant = rng.choice("aaaaaaabc")
        everyone.append(alone(rng.randint(1, 30), tenant=tenant, samples=rng.random() < 0.7))
        s.add(everyone[-1])
    steps = 0
    while s.running or s.waiting:
        assert step(s, until=40)
        steps += 1
        assert steps < 20_000
    check(s)


KINDS = ("samples", "samples", "samples", "ends", "pools", "scores")


class Steps(RuleBasedStateMachine):
    """Random submits, steps, finishes and cancels over few blocks and few different tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.s = scheduler(blocks=10, max_running=3, chunk=6)
        self.alive: list[Sequence] = []

    def submit(self, made: Sequence) -> None:
        self.alive.append(made)
        self.s.add(made)

    @rule(
        blocks=st.lists(st.integers(0, 1), max_size=6),
        rest=st.integers(1, 6),
        tenant=st.sampled_from("ab"),
        kind=st.sampled_from(KINDS),
        first=st.integers(0, 29),
    )
    def submit_one(self, blocks: list[int], rest: int, tenant: str, kind: str, first: int) -> None:
        tokens = [token for block in blocks for token in [block] * BLOCK] + [7] * rest
        first %= len(tokens)
        self.submit(
            sequence(
                tokens,
                tenant=tenant,
                samples=kind == "samples",
                pools=kind == "pools",
                score_from=first if kind == "scores" else 0,
                targets=tokens[first:] if kind == "scores" else (),
            )
        )

    @rule(broken=st.integers(0, 20), until=st.integers(1, 36))
    def step(self, broken: int, until: int) -> None:
        plan = self.s.plan()
        assert sum(p.length for p in plan if p.length > 1) <= 6
        assert bool(plan) == bool(self.alive)  # never stuck
        for piece in plan:
            one = piece.sequence
            assert one in self.s.running
            assert len(one.blocks) * BLOCK >= piece.start + piece.length
            assert piece.start == one.computed
            assert piece.length > 0
            assert one.pools or not one.targets or piece.start <= one.score_from + one.scored
            # Nobody writes into a block that another one reads.
            for i in range(piece.start // BLOCK, (piece.start + piece.length - 1) // BLOCK + 1):
                assert self.s.blocks.holders(one.blocks[i]) == 1
                assert i >= len(one.path) or one.path[i].pending
        self.s.advance([p for i, p in enumerate(plan) if i != broken])
        for i, piece in enumerate(plan):
            one = piece.sequence
            end = piece.start + piece.length
            one.scored = min(max(one.scored, end - one.score_from), len(one.targets))
            if one.left and i != broken:
                continue
            if i != broken and one.samples and len(one.tokens) < until:
                one.tokens.append(len(one.tokens) % 2)
            else:
                self.alive.remove(one)
                self.s.remove(one)

    @rule(steps=st.integers(1, 12))
    def write(self, steps: int) -> None:
        if not self.s.running or any(not one.samples for one in self.s.running):
            return
        steps = min(steps, min(40 - len(one.tokens) for one in self.s.running))
        made = self.s.reserve(steps, {})
        assert 0 <= made <= steps
        for one in self.s.running:
            one.tokens += [1] * made
            one.computed += made
            assert len(one.blocks) * BLOCK >= one.computed

    @precondition(lambda self: self.alive)
    @rule(index=st.integers(0, 99))
    def cancel(self, index: int) -> None:
        self.s.remove(self.alive.pop(index % len(self.alive)))

    @invariant()
    def no_block_leaks(self) -> None:
        assert len(self.s.running) <= self.s.max_running
        assert set(self.s.running) | set(self.s.waiting) == set(self.alive)
        assert len(self.s.waiting) + len(self.s.running) == len(self.alive)
        check(self.s)

    def teardown(self) -> None:
        for _ in range(2000):
            if not self.alive:
                break
            self.step(broken=99, until=20)
        assert not self.alive, "everyone gets finished"
        check(self.s)
        assert self.s.blocks.used == 0


TestSteps = Steps.TestCase
TestSteps.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)


def test_ten_thousand_random_steps_under_load_leak_nothing() -> None:
    machine, rng = Steps(), random.Random(0)
    preempted = shared = 0
    for _ in range(10_000):
        running = list(machine.s.running)
        match rng.choices(["submit", "step", "write", "cancel"], (30, 60, 5, 5))[0]:
            case "submit" if len(machine.alive) < 12:
                blocks = [rng.randint(0, 1) for _ in range(rng.randint(0, 6))]
                kind = rng.choice(KINDS)
                machine.submit_one(
                    blocks, rng.randint(1, 6), rng.choice("ab"), kind, rng.randrange(30)
                )
                shared += machine.s.tree.find(machine.alive[-1]) != []
            case "write":
                machine.write(rng.randint(1, 12))
            case "cancel" if machine.alive:
                machine.cancel(rng.randrange(99))
            case _:
                machine.step(rng.randrange(60), rng.randint(20, 36))
        preempted += any(one in machine.s.waiting for one in running)
        machine.no_block_leaks()
    assert preempted > 100
    assert shared > 500
    machine.teardown()

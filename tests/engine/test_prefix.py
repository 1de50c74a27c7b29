"""What sequences share: the tree alone, driven by the scheduler."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import pytest

from everloop.engine.native.blocks import BlockManager
from everloop.engine.native.scheduler import Scheduler
from everloop.engine.native.sequence import Sequence
from tests.engine.sequences import BLOCK, check, sequence


def scheduler(blocks: int = 32) -> Scheduler:
    return Scheduler(BlockManager(blocks, BLOCK), max_running=8, chunk=1000)


def text(*numbers: int) -> list[int]:
    """A block of tokens for each number."""
    return [number for number in numbers for _ in range(BLOCK)]


def step(s: Scheduler) -> None:
    """Computes one step; streams write the same tokens at the same positions."""
    plan = s.plan()
    s.advance(plan)
    for piece in plan:
        one = piece.sequence
        if one.samples and not one.left:
            one.tokens.append(100 + len(one.tokens))
    check(s)


def start(s: Scheduler, tokens: Seq[int], **options: object) -> Sequence:
    """Admits a sequence and computes all its tokens; `cached` says how many were known."""
    one = sequence(tokens, **options)  # type: ignore[arg-type]
    s.add(one)
    step(s)
    assert one.computed == len(tokens)
    return one


def run(s: Scheduler, tokens: Seq[int], **options: object) -> int:
    """Runs a sequence from beginning to end; how many of its tokens were known."""
    one = start(s, tokens, **options)
    s.remove(one)
    check(s)
    return one.cached


def known(s: Scheduler, tokens: Seq[int], tenant: str = "") -> int:
    found = s.tree.find(sequence(tokens, tenant=tenant))
    assert found is not None
    return len(found)


def test_whole_blocks_are_known_again_but_never_the_last_token() -> None:
    s = scheduler()
    assert run(s, [*text(1, 2), 9]) == 0
    assert len(s.tree) == 2
    assert run(s, [*text(1, 2), 9]) == 8
    assert run(s, text(1, 2, 3)) == 8
    assert run(s, text(1, 2)) == 4
    assert run(s, text(1)[:-1]) == 0
    assert run(s, text(1, 4, 3)) == 4
    assert run(s, text(2, 1)) == 0
    assert s.blocks.used == 0
    assert s.blocks.free == s.blocks.total


def test_what_was_written_is_known_to_the_next_turn() -> None:
    s = scheduler()
    one = start(s, [*text(1), 5], samples=True)
    while len(one.tokens) < 12:
        step(s)
    assert one.computed == 11  # the keys of the token sampled last are not known
    s.remove(one)
    check(s)
    assert run(s, [*one.tokens, 1, 2, 3]) == 8


def test_tenants_never_share() -> None:
    s = scheduler()
    assert run(s, text(1, 2, 3), tenant="a") == 0
    for tenant in ("b", "", "a ", "\ud800", "?"):
        assert run(s, text(1, 2, 3), tenant=tenant) == 0
        assert run(s, text(1, 2, 3), tenant=tenant) == 8
    assert len(s.tree) == 6 * 3
    # Nor does one wait for what another is computing.
    s.add(sequence(text(7, 8), tenant="a"))
    s.add(sequence(text(7, 8), tenant="b"))
    assert [p.length for p in s.plan()] == [8, 8]
    check(s)


def test_eviction_takes_what_was_used_longest_ago_and_leaves_first() -> None:
    s = scheduler(blocks=8)
    run(s, text(1, 2, 3))
    run(s, text(4, 5, 6))
    assert run(s, text(1, 2, 9)) == 8  # used again; 3 was not
    assert s.blocks.idle == 7
    order = []
    for count in range(2, 9):
        taken = s.blocks.allocate(count)
        assert taken is not None
        s.blocks.release(taken)
        check(s)
        order.append([known(s, text(*path, 0)) for path in ((1, 2, 3), (4, 5, 6), (1, 2, 9))])
    assert order == [[2, 3, 3], [2, 2, 3], [2, 1, 3], [2, 0, 3], [2, 0, 2], [1, 0, 1], [0, 0, 0]]
    assert len(s.tree) == 0
    assert not s.tree._top.children  # nothing is left of tenants either


def test_a_held_path_is_never_evicted() -> None:
    s = scheduler(blocks=6)
    run(s, text(1, 2, 3))
    one = start(s, text(1, 2, 5))
    assert one.cached == 8
    assert s.blocks.allocate(4) is None
    assert s.blocks.allocate(3) is not None
    assert known(s, text(1, 2, 3, 4)) == 2
    assert known(s, text(1, 2, 5, 4)) == 3


def test_admission_counts_idle_blocks_that_it_takes_itself() -> None:
    s = scheduler(blocks=6)
    run(s, text(1, 2, 3))
    other = start(s, text(7, 8), samples=True)
    s.add(one := sequence(text(1, 2, 3, 4)))  # 3 known and idle, 1 new, 1 free, 1 in reserve
    step(s)
    assert not one.blocks
    s.remove(other)
    s.plan()
    assert one.cached == 12


def test_many_at_once_compute_their_common_beginning_once() -> None:
    s = scheduler()
    many = [sequence([*text(1, 2, 3), i]) for i in range(6)]
    for one in many:
        s.add(one)
    first = s.plan()
    assert [(p.sequence, p.length) for p in first] == [(many[0], 13)]
    s.advance(first)
    rest = s.plan()
    assert [p.length for p in rest if p.sequence is not many[0]] == [1] * 5
    assert s.blocks.used == 3 + 6
    check(s)


def test_who_waits_looks_for_the_deepest_block_that_it_shares() -> None:
    s = Scheduler(BlockManager(32, BLOCK), max_running=8, chunk=BLOCK)
    s.add(long := sequence(text(1, 2, 3, 4, 5)))
    s.advance(s.plan())
    assert long.filled == 1
    one, other = sequence(text(1, 2, 3, 9)), sequence(text(1, 8))
    assert s.tree.find(one) is None
    assert one.awaits is long.path[2]
    assert s.tree.find(other) == long.path[:1]  # all that it needs is there
    s.remove(long)
    assert not one.awaits.pending
    assert known(s, text(1, 2, 3, 9)) == 1


def test_pooled_texts_neither_take_nor_leave_anything() -> None:
    s = scheduler()
    assert run(s, text(8, 9), pools=True) == 0
    assert len(s.tree) == 0
    run(s, text(1, 2))
    assert run(s, text(1, 2, 3), pools=True) == 0
    assert len(s.tree) == 2
    s.add(sequence(text(5, 6, 7)))
    s.add(sequence(text(5, 6, 7), pools=True))
    assert [p.length for p in s.plan()] == [12, 12]


@pytest.mark.parametrize(("first", "want"), [(0, 0), (3, 0), (4, 4), (10, 8), (11, 8)])
def test_scored_tokens_are_computed_although_known(first: int, want: int) -> None:
    s = scheduler()
    tokens = text(1, 2, 3)
    targets = tokens[first:]
    run(s, tokens)
    one = start(s, tokens, score_from=first, targets=targets)
    assert one.cached == want
    two = start(s, tokens, score_from=first, targets=targets)
    s.remove(two)
    s.remove(one)
    check(s)
    assert len(s.tree) == 3  # no block twice
    assert run(s, [*tokens, 0]) == 12
    three = sequence(tokens, score_from=first, targets=targets)
    for three.scored in range(len(targets)):  # what it had before it gave way is not needed again
        assert three.reusable == min(first + three.scored, 11)
    three.scored = len(targets)
    assert three.reusable == 11


def test_the_same_text_written_twice_is_kept_once() -> None:
    s = scheduler()
    pair = [start(s, [*text(1), 5], samples=True) for _ in range(2)]
    while min(one.computed for one in pair) < 16:
        step(s)
    assert s.blocks.used == 1 + 2 * 3 + (pair[0].computed > 16)
    for one in pair[::-1]:
        s.remove(one)
        check(s)
    assert len(s.tree) == s.blocks.idle == 4


def test_what_one_wrote_while_another_reads_it_is_kept_once() -> None:
    s = Scheduler(BlockManager(32, BLOCK), max_running=8, chunk=2)
    s.add(writer := sequence([*text(1), 5], samples=True))
    while len(writer.tokens) < 16:
        step(s)
    s.add(reader := sequence([*writer.tokens[:12], *text(6)]))
    step(s)
    assert (reader.cached, reader.filled, len(reader.path)) == (4, 1, 4)
    s.remove(writer)
    check(s)
    assert len(s.tree) == 4
    while s.running:
        step(s)
        if not reader.left:
            s.remove(reader)
    check(s)
    assert known(s, [*writer.tokens[:12], *text(6, 7)]) == 4
    assert known(s, [*writer.tokens[:8], *text(6, 7)]) == 2


def test_what_broke_is_not_shared() -> None:
    s = Scheduler(BlockManager(32, BLOCK), max_running=8, chunk=6)
    s.add(bad := sequence(text(1, 2, 3)))
    s.add(good := sequence(text(1, 2, 4)))
    s.advance(s.plan())  # 6 tokens of the first
    s.plan()
    s.advance([])  # the next 6 were broken
    s.remove(bad)
    check(s)
    assert known(s, text(1, 2, 3, 4)) == 1
    assert [(p.sequence, p.start) for p in s.plan()] == [(good, 4)]


def test_a_sequence_that_gives_way_keeps_what_fits() -> None:
    s = scheduler(blocks=8)
    old = start(s, text(1, 2), samples=True)
    young = start(s, text(3, 4, 5, 6)[:-1], samples=True)
    while old.computed < 21:
        step(s)
    assert s.running == [old]
    assert known(s, text(3, 4, 5, 6)) == 2  # of the four blocks it had, its last two went first
    s.remove(old)
    [piece] = s.plan()
    assert (piece.sequence, piece.start) == (young, 8)
    assert young.cached == 0

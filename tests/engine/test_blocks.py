from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from everloop.engine.native.blocks import BlockManager

TOTAL = 12


class Blocks(RuleBasedStateMachine):
    """Holders as lists of blocks beside the manager: the two must always agree."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = BlockManager(TOTAL, 16)
        self.tables: list[list[int]] = []

    @rule(count=st.integers(0, 6))
    def allocate(self, count: int) -> None:
        free = self.manager.free
        taken = self.manager.allocate(count)
        assert (taken is None) == (count > free)
        if taken is not None:
            held = {b for table in self.tables for b in table}
            assert len(set(taken)) == count
            assert not held & set(taken)
            self.tables.append(taken)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        table = data.draw(st.sampled_from(self.tables))
        count = data.draw(st.integers(0, len(table)))
        self.tables.append(self.manager.share(table[:count]))

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.tables) - 1))
        self.manager.release(self.tables.pop(index))

    @invariant()
    def agrees(self) -> None:
        held = [b for table in self.tables for b in table]
        assert self.manager.used == len(set(held))
        assert self.manager.free == TOTAL - len(set(held))
        for block in range(TOTAL):
            assert self.manager.holders(block) == held.count(block)


TestBlocks = Blocks.TestCase
TestBlocks.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_needed_blocks_round_up() -> None:
    manager = BlockManager(4, 16)
    assert [manager.needed(n) for n in (0, 1, 16, 17)] == [0, 1, 1, 2]


def test_releasing_twice_is_a_defect() -> None:
    manager = BlockManager(4, 16)
    blocks = manager.allocate(1)
    assert blocks is not None
    manager.release(blocks)
    with pytest.raises(AssertionError, match="released twice"):
        manager.release(blocks)
    with pytest.raises(AssertionError, match="can't be shared"):
        manager.share(blocks)

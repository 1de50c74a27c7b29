"""Sequences without a model, and what must be true of every block at any time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Seq

from everloop.engine.native.jobs import Event, Job
from everloop.engine.native.scheduler import Scheduler
from everloop.engine.native.sequence import Sequence

BLOCK = 4


class Work(Job):
    """A job that takes nothing: its sequences are all there is to it."""

    def computed(self, sequence: Sequence) -> Event | None:
        return None

    def usage(self) -> tuple[int, int, int]:
        return 0, 0, 0


def sequence(
    tokens: Seq[int],
    *,
    tenant: str = "",
    samples: bool = False,
    pools: bool = False,
    score_from: int = 0,
    targets: Seq[int] = (),
) -> Sequence:
    return Sequence(
        job=Work(1, "", tenant),
        tokens=list(tokens),
        samples=samples,
        pools=pools,
        score_from=score_from,
        targets=targets,
    )


def check(scheduler: Scheduler) -> None:
    """Every block is empty, idle in the tree, or held by exactly those whose tables have it; the
    tree's paths are whole, and whoever holds a block holds all that are before it."""
    blocks, tree = scheduler.blocks, scheduler.tree
    tables = [one.blocks for one in scheduler.running]
    held = Counter(block for table in tables for block in table)
    assert all(blocks.holders(block) == held[block] for block in range(blocks.total))
    assert blocks.used == len(held)
    assert sorted(blocks._empty + list(blocks._idle) + list(held)) == list(range(blocks.total))
    assert set(blocks._idle) <= set(tree._nodes)
    assert not set(blocks._empty) & set(tree._nodes)
    assert [block for block in range(blocks.total) if blocks._kept[block]] == sorted(tree._nodes)
    reached = [node for root in tree._top.children.values() for node in root.children.values()]
    for node in reached:
        reached += node.children.values()
        for child in node.children.values():
            assert child.parent is node
            assert blocks.holders(child.block) <= blocks.holders(node.block)
    assert sorted(node.block for node in reached) == sorted(tree._nodes)
    assert all(root.children for root in tree._top.children.values())
    idle = list(blocks._idle)
    for i, block in enumerate(idle):  # a leaf whenever it is its turn
        assert {child.block for child in tree._nodes[block].children.values()} <= set(idle[:i])
    for one in scheduler.running:
        assert [node.block for node in one.path] == one.blocks[: len(one.path)]
        assert [node.pending for node in one.path] == [
            i >= one.filled for i in range(len(one.path))
        ]
    assert {node for node in reached if node.pending} == {
        node for one in scheduler.running for node in one.path[one.filled :]
    }
    for one in scheduler.waiting:
        assert (one.blocks, one.path, one.computed) == ([], [], 0)

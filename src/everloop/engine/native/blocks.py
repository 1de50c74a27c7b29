"""Who owns which block of the key-value cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence


class BlockManager:
    """Hands out block numbers 0 … total-1 and counts their holders.

    A block may be held several times (a shared prefix). The last one freed is the next one given,
    so that a lightly loaded engine keeps touching the same few pages of memory. A block that is
    kept stays as it is after its last holder, until memory is needed: then the one that was held
    longest ago goes first, and `evicted` is told.
    """

    def __init__(self, total: int, block_size: int) -> None:
        assert total > 0
        assert block_size > 0
        self.total, self.block_size = total, block_size
        self.evicted: Callable[[int], None] = lambda block: None
        self._empty = list(range(total - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()  # kept and not held, oldest first
        self._kept = bytearray(total)
        self._holders = [0] * total

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._empty) + len(self._idle)

    @property
    def idle(self) -> int:
        """Of these, the blocks that are kept."""
        return len(self._idle)

    @property
    def used(self) -> int:
        """Blocks with at least one holder."""
        return self.total - self.free

    def needed(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens."""
        return -(-tokens // self.block_size)

    def allocate(self, count: int) -> list[int] | None:
        """`count` blocks with one holder each, or None (and no change) if there are too few."""
        empty, idle, holders = self._empty, self._idle, self._holders
        if count > len(empty) + len(idle):
            return None
        while len(empty) < count:
            block, _ = idle.popitem(last=False)
            self._kept[block] = False
            empty.append(block)
            self.evicted(block)
        taken = [empty.pop() for _ in range(count)]
        for block in taken:
            holders[block] = 1
        return taken

    def share(self, blocks: Sequence[int]) -> list[int]:
        """One more holder for each block; returns them for the new holder's table."""
        for block in blocks:
            if not self._holders[block]:
                assert self._kept[block], f"block {block} is free and can't be shared"
                del self._idle[block]
            self._holders[block] += 1
        return list(blocks)

    def release(self, blocks: Sequence[int]) -> None:
        """One holder less for each block, the last one first; a block without holders is free."""
        holders = self._holders
        for block in reversed(blocks):
            assert holders[block] > 0, f"block {block} is released twice"
            holders[block] -= 1
            if not holders[block]:
                if self._kept[block]:
                    self._idle[block] = None
                else:
                    self._empty.append(block)

    def keep(self, block: int) -> None:
        """What a held block has in it is worth keeping after its last holder."""
        assert self._holders[block] > 0, f"block {block} is free and can't be kept"
        self._kept[block] = True

    def drop(self, block: int) -> None:
        """What a held block has in it is worth nothing after its last holder."""
        assert self._holders[block] > 0, f"block {block} is free and can't be dropped"
        self._kept[block] = False

    def holders(self, block: int) -> int:
        """How many hold `block`."""
        return self._holders[block]

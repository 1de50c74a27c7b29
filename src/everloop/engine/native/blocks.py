"""Who owns which block of the key-value cache."""

from __future__ import annotations

from collections.abc import Sequence


class BlockManager:
    """Hands out block numbers 0 … total-1 and counts their holders.

    A block may be held several times (a shared prefix). The last one freed is the next one given,
    so that a lightly loaded engine keeps touching the same few pages of memory.
    """

    def __init__(self, total: int, block_size: int) -> None:
        assert total > 0
        assert block_size > 0
        self.total, self.block_size = total, block_size
        self._free = list(range(total - 1, -1, -1))
        self._holders = [0] * total

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    @property
    def used(self) -> int:
        """Blocks with at least one holder."""
        return self.total - len(self._free)

    def needed(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens."""
        return -(-tokens // self.block_size)

    def allocate(self, count: int) -> list[int] | None:
        """`count` blocks with one holder each, or None (and no change) if there are too few."""
        if count > len(self._free):
            return None
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._holders[block] = 1
        return taken

    def share(self, blocks: Sequence[int]) -> list[int]:
        """One more holder for each block; returns them for the new holder's table."""
        for block in blocks:
            assert self._holders[block] > 0, f"block {block} is free and can't be shared"
            self._holders[block] += 1
        return list(blocks)

    def release(self, blocks: Sequence[int]) -> None:
        """One holder less for each block; a block without holders is free."""
        for block in reversed(blocks):
            assert self._holders[block] > 0, f"block {block} is released twice"
            self._holders[block] -= 1
            if not self._holders[block]:
                self._free.append(block)

    def holders(self, block: int) -> int:
        """How many hold `block`."""
        return self._holders[block]

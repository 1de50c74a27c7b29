"""Which beginnings of texts are in the key-value cache: a tree over whole blocks.

A node stands for one block: its key is the block's tokens, its parent the block before. Whoever
begins with the tokens on a path from the root shares those blocks. Tenants have trees of their own,
so that nobody can tell from an answer's speed what another tenant has asked.

A sequence holds the blocks of a whole path from the root and lets go of the deepest first.
Therefore an idle node's children are idle for longer than itself, and evicting the block that is
idle for longest always takes a leaf.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from everloop.engine.native.blocks import BlockManager
from everloop.engine.native.sequence import Sequence


class Node:
    """One block's tokens after those of its ancestors. `pending`: still being computed."""

    __slots__ = ("block", "children", "key", "parent", "pending")

    def __init__(self, parent: Node | None, key: bytes, block: int, pending: bool) -> None:
        self.parent, self.key, self.block, self.pending = parent, key, block, pending
        self.children: dict[bytes, Node] = {}


class PrefixTree:
    """Gives sequences their blocks and takes them back, sharing what they have in common.

    A block enters the tree when a sequence that will fill it is admitted (others that begin with
    it wait until it is computed) or, for what was written since, when the sequence goes.
    """

    def __init__(self, blocks: BlockManager) -> None:
        self._blocks = blocks
        self._top = Node(None, b"", -1, False)  # its children are the tenants' roots
        self._nodes: dict[int, Node] = {}  # by block
        blocks.evicted = self._evicted

    def __len__(self) -> int:
        """Blocks in the tree."""
        return len(self._nodes)

    def __contains__(self, block: int) -> bool:
        return block in self._nodes

    def find(self, sequence: Sequence) -> list[Node] | None:
        """Nodes that `sequence` can begin with; None if it should wait for one that is being
        computed, which is then `sequence.awaits`."""
        found: list[Node] = []
        node = self._top.children.get(_salt(sequence))
        if node is None:
            return found
        for key in self._keys(sequence, 0, sequence.reusable // self._blocks.block_size):
            node = node.children.get(key)
            if node is None:
                break
            found.append(node)
        if found and found[-1].pending:
            sequence.awaits = found[-1]
            return None
        return found

    def idle(self, nodes: list[Node]) -> int:
        """How many of a path's nodes nobody holds."""
        count = 0
        for node in reversed(nodes):
            if self._blocks.holders(node.block):
                break
            count += 1
        return count

    def admit(self, sequence: Sequence, nodes: list[Node]) -> None:
        """Gives a sequence the blocks of `nodes` and enough others for the rest of its tokens;
        there must be enough."""
        size = self._blocks.block_size
        shared = self._blocks.share([node.block for node in nodes])
        fresh = self._blocks.allocate(self._blocks.needed(len(sequence.tokens)) - len(nodes))
        assert fresh is not None
        sequence.blocks = blocks = shared + fresh
        sequence.path, sequence.filled = nodes, len(nodes)
        sequence.computed = len(nodes) * size
        whole = sequence.exact // size
        if sequence.pools or whole == len(nodes):
            return
        node = nodes[-1] if nodes else self._root(sequence)
        for i, key in enumerate(self._keys(sequence, len(nodes), whole), len(nodes)):
            if key in node.children:
                break  # known, but computed again for its hidden states: in blocks of its own
            node = self._add(node, key, blocks[i], pending=True)
            nodes.append(node)

    def fill(self, sequence: Sequence) -> None:
        """What `sequence` has computed can be shared from now on."""
        whole = min(sequence.computed // self._blocks.block_size, len(sequence.path))
        for node in sequence.path[sequence.filled : whole]:
            node.pending = False
        sequence.filled = max(whole, sequence.filled)

    def release(self, sequence: Sequence) -> None:
        """Takes a sequence's blocks back; those that are full stay in the tree until memory is
        needed. `tokens` must be what was computed."""
        path, blocks = sequence.path, sequence.blocks
        while len(path) > sequence.filled:
            self._forget(path.pop())
        whole = min(sequence.computed, sequence.exact) // self._blocks.block_size
        if whole > len(path) and not sequence.pools:
            self._extend(sequence, whole)
        self._blocks.release(blocks)
        sequence.blocks, sequence.path = [], []
        sequence.computed = sequence.filled = 0

    def _extend(self, sequence: Sequence, whole: int) -> None:
        """Puts what `sequence` has computed beyond its path into the tree."""
        path, blocks = sequence.path, sequence.blocks
        node = path[-1] if path else self._root(sequence)
        for i, key in enumerate(self._keys(sequence, len(path), whole), len(path)):
            known = node.children.get(key)
            if known is None:
                node = self._add(node, key, blocks[i], pending=False)
            elif known.pending:
                break
            else:  # computed twice: held as part of the path, so that it isn't older than `node`
                self._blocks.release([blocks[i]])
                blocks[i] = self._blocks.share([known.block])[0]
                node = known

    def _keys(self, sequence: Sequence, start: int, end: int) -> Iterator[bytes]:
        """The tokens of blocks start … end - 1 of a sequence."""
        size, tokens = self._blocks.block_size, sequence.tokens
        for i in range(start * size, end * size, size):
            yield array("i", tokens[i : i + size]).tobytes()

    def _root(self, sequence: Sequence) -> Node:
        salt = _salt(sequence)
        root = self._top.children.get(salt)
        if root is None:
            root = self._top.children[salt] = Node(self._top, salt, -1, False)
        return root

    def _add(self, parent: Node, key: bytes, block: int, *, pending: bool) -> Node:
        node = parent.children[key] = self._nodes[block] = Node(parent, key, block, pending)
        self._blocks.keep(block)
        return node

    def _forget(self, node: Node) -> None:
        self._blocks.drop(node.block)
        self._evicted(node.block)

    def _evicted(self, block: int) -> None:
        node = self._nodes.pop(block)
        node.pending = False
        self._unlink(node)

    def _unlink(self, node: Node) -> None:
        parent = node.parent
        assert parent is not None
        assert not node.children
        del parent.children[node.key]
        if parent.parent is self._top and not parent.children:
            self._unlink(parent)


def _salt(sequence: Sequence) -> bytes:
    return sequence.job.tenant.encode(errors="surrogatepass")

"""Attention over the block cache, the same bits for a token whatever is computed beside it.

Keys are taken one block at a time: every product has a block's shape, a row's maximum doesn't
depend on order, and the sums over blocks are added as a tree of neighbours, to which padded blocks
add exact zeros. Shape letters: G groups of rows with one block table, N blocks of the longest
table, K key/value heads, R rows per key/value head (tokens times query heads per key/value head,
padded), S tokens in a block, D head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class BlockCache:
    """Keys and values of all layers, (blocks, K, S, D) for each layer.

    The memory is reserved, not touched: pages become resident when a block is first used.
    """

    def __init__(
        self, *, layers: int, blocks: int, kv_heads: int, block_size: int, head_dim: int
    ) -> None:
        shape = (layers, blocks, kv_heads, block_size, head_dim)
        self.keys = torch.from_numpy(np.zeros(shape, dtype=np.float32))
        self.values = torch.from_numpy(np.zeros(shape, dtype=np.float32))
        self.block_size, self.kv_heads = block_size, kv_heads
        # Rows of D that are written: views, one pair for each layer.
        self.key_rows = [k.view(-1, head_dim) for k in self.keys]
        self.value_rows = [v.view(-1, head_dim) for v in self.values]

    def rows(self, blocks: Tensor, offsets: Tensor) -> Tensor:
        """Row numbers (tokens · K) at which the keys of tokens in `blocks` at `offsets` lie."""
        heads = torch.arange(self.kv_heads)
        return (
            ((blocks[:, None] * self.kv_heads + heads) * self.block_size)
            .add_(offsets[:, None])
            .view(-1)
        )

    def clear(self, blocks: list[int]) -> None:
        """Zeroes blocks that may hold NaN or infinity: a masked value is multiplied by zero, which
        would spread them to the block's next holder."""
        index = torch.tensor(blocks)
        self.keys[:, index] = 0.0
        self.values[:, index] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows start … end-1 of a step that are attended together.

    Either one sequence's chunk (G = 1) or one token each of G sequences. `hidden` (G, N, 1, R or
    1, S) is True where a row must not look, for layers without and with a sliding window.
    """

    start: int
    end: int
    tables: Tensor  # (G · N,) block numbers; padding points at any block and is hidden
    groups: int
    hidden: dict[int | None, Tensor]


def make_group(
    *,
    start: int,
    tables: list[list[int]],
    positions: Tensor,
    block_size: int,
    windows: set[int | None],
    heads_per_kv: int,
    row_multiple: int,
) -> Group:
    """`positions` (G, T) of the tokens, T = 1 unless G = 1; `tables` as long as they need to be."""
    longest = max(map(len, tables))
    flat = [b for table in tables for b in (*table, *(0,) * (longest - len(table)))]
    keys = torch.arange(longest * block_size).view(1, longest, 1, 1, block_size)
    queries = positions
    if positions.shape[1] > 1:
        queries = positions.repeat_interleave(heads_per_kv, dim=1)
        queries = F.pad(queries, (0, -queries.shape[1] % row_multiple))
    queries = queries[:, None, None, :, None]
    hidden = {}
    for window in windows:
        mask = keys > queries
        if window is not None:
            mask |= keys <= queries - window
        hidden[window] = mask
    return Group(
        start=start,
        end=start + positions.numel(),
        tables=torch.tensor(flat),
        groups=len(tables),
        hidden=hidden,
    )


def attend(
    q: Tensor, keys: Tensor, values: Tensor, group: Group, window: int | None, row_multiple: int
) -> Tensor:
    """Attention outputs (tokens, H · D) of scaled queries `q` (tokens, H, D) over one layer's
    blocks."""
    tokens, heads, size = q.shape
    _, kv_heads, block_size, _ = keys.shape
    groups, per_kv = group.groups, heads // kv_heads
    blocks = len(group.tables) // groups
    if groups == tokens:
        q = q.view(groups, kv_heads, per_kv, size)
    else:
        q = (
            q.view(tokens, kv_heads, per_kv, size)
            .transpose(0, 1)
            .reshape(1, kv_heads, tokens * per_kv, size)
        )
    rows = q.shape[2]
    padded = -(-rows // row_multiple) * row_multiple
    # One copy of the queries for each block: a batched product wants them side by side.
    spread = q.new_zeros(groups, blocks, kv_heads, padded, size)
    spread[:, :, :, :rows] = q[:, None]
    batch = groups * blocks * kv_heads
    k = keys.index_select(0, group.tables).view(batch, block_size, size)
    v = values.index_select(0, group.tables).view(batch, block_size, size)
    scores = torch.bmm(spread.view(batch, padded, size), k.transpose(1, 2))
    scores = scores.view(groups, blocks, kv_heads, padded, block_size)
    scores.masked_fill_(group.hidden[window], -torch.inf)
    scores.sub_(scores.amax((1, 4), keepdim=True)).exp_()
    total = tree_sum(scores.sum(-1))
    out = torch.bmm(scores.view(batch, padded, block_size), v)
    out = tree_sum(out.view(groups, blocks, kv_heads, padded, size))
    out = (out / total[..., None])[:, :, :rows]
    if groups == tokens:
        return out.reshape(tokens, heads * size)
    return out.view(kv_heads, tokens, per_kv, size).transpose(0, 1).reshape(tokens, heads * size)


def tree_sum(x: Tensor) -> Tensor:
    """Sum over dimension 1 by adding neighbours until one is left: appended zeros change no bit."""
    while x.shape[1] > 1:
        pairs = x[:, :-1:2] + x[:, 1::2]
        x = torch.cat((pairs, x[:, -1:]), dim=1) if x.shape[1] % 2 else pairs
    return x[:, 0]

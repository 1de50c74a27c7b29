from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everloop.engine.native.attention import BlockCache, attend, make_group, tree_sum

HEADS, KV_HEADS, SIZE, BLOCK = 6, 2, 16, 8


def filled(length: int, table: list[int], seed: int = 0) -> tuple[BlockCache, Tensor, Tensor]:
    """A cache whose `table` holds random keys and values of `length` tokens, and those."""
    generator = torch.Generator().manual_seed(seed)
    cache = BlockCache(layers=1, blocks=40, kv_heads=KV_HEADS, block_size=BLOCK, head_dim=SIZE)
    k = torch.randn(length, KV_HEADS, SIZE, generator=generator)
    v = torch.randn(length, KV_HEADS, SIZE, generator=generator)
    where = torch.arange(length)
    rows = cache.rows(torch.tensor(table)[where // BLOCK], where % BLOCK)
    cache.key_rows[0].index_copy_(0, rows, k.view(-1, SIZE))
    cache.value_rows[0].index_copy_(0, rows, v.view(-1, SIZE))
    return cache, k, v


def ours(
    q: Tensor, cache: BlockCache, tables: list[list[int]], positions: Tensor, window: int | None
) -> Tensor:
    group = make_group(
        start=0,
        tables=tables,
        positions=positions,
        block_size=BLOCK,
        windows={window},
        heads_per_kv=HEADS // KV_HEADS,
        row_multiple=4,
    )
    out = attend(q, cache.keys[0], cache.values[0], group, window, 4)
    return out.view(len(q), HEADS, SIZE)


@pytest.mark.parametrize("window", [None, 5, 13])
@pytest.mark.parametrize(("start", "end"), [(0, 1), (0, 20), (19, 20), (7, 31), (33, 47)])
def test_against_scaled_dot_product_attention(start: int, end: int, window: int | None) -> None:
    table = [3, 17, 2, 9, 30, 11]
    cache, k, v = filled(end, table)
    q = torch.randn(end - start, HEADS, SIZE, generator=torch.Generator().manual_seed(1))
    where = torch.arange(start, end)
    got = ours(q, cache, [table[: -(-end // BLOCK)]], where[None], window)
    keys = torch.arange(end)
    mask = keys <= where[:, None]
    if window is not None:
        mask &= keys > where[:, None] - window
    want = F.scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        k.transpose(0, 1)[None],
        v.transpose(0, 1)[None],
        attn_mask=mask,
        scale=1.0,
        enable_gqa=True,
    )[0].transpose(0, 1)
    assert torch.allclose(got, want, atol=1e-5)


def test_other_blocks_and_longer_neighbours_change_no_bit() -> None:
    table = [3, 17, 2]
    cache, _, _ = filled(20, table)
    q = torch.randn(1, HEADS, SIZE, generator=torch.Generator().manual_seed(1))
    alone = ours(q, cache, [table], torch.tensor([[19]]), None)
    others = [b for b in range(40) if b not in table]
    for block in others:
        cache.keys[0, block] = 7.0
        cache.values[0, block] = -3.0
    neighbour = torch.randn(1, HEADS, SIZE, generator=torch.Generator().manual_seed(2))
    together = ours(
        torch.cat((neighbour, q)), cache, [others[:9], table], torch.tensor([[70], [19]]), None
    )
    assert torch.equal(together[1:], alone)


def test_clear_takes_nan_out_of_reused_blocks() -> None:
    cache, _, _ = filled(20, [3, 17, 2])
    cache.values[0, 2, :, 6:] = torch.nan  # behind the 20 tokens, in their last block
    q = torch.ones(1, HEADS, SIZE)
    assert ours(q, cache, [[3, 17, 2]], torch.tensor([[19]]), None).isnan().any()
    cache.clear([2])
    assert ours(q, cache, [[3, 17, 2]], torch.tensor([[19]]), None).isfinite().all()


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 33])
def test_tree_sum_is_a_sum_that_padding_does_not_change(count: int) -> None:
    x = torch.randn(2, count, 5, generator=torch.Generator().manual_seed(count))
    got = tree_sum(x)
    assert torch.allclose(got, x.sum(1), atol=1e-5)
    for padding in (1, 2, 5, 30):
        padded = torch.cat((x, torch.zeros(2, padding, 5)), dim=1)
        assert torch.equal(tree_sum(padded), got)

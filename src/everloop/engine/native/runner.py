"""One step of the model: rows of many sequences through the layers, over the block cache.

Uses the weights of `model.transformer` (the oracle of its tests), with the products that share an
input joined: query, key and value in one, gate and up in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everloop.engine.native.attention import BlockCache, Group, attend, make_group
from everloop.engine.native.backend import Rows
from everloop.engine.native.leaving import Leaving
from everloop.engine.native.linear import Kind, choose
from everloop.model.config import ModelConfig
from everloop.model.rope import rope_tables
from everloop.model.transformer import Block, RMSNorm, Transformer


class Runner:
    """A model ready to be stepped. Not thread-safe; one per process."""

    def __init__(
        self, config: ModelConfig, model: Transformer, *, blocks: int, block_size: int
    ) -> None:
        self.config, self.blocks, self.block_size = config, blocks, block_size
        with torch.inference_mode():
            self._load(config, model, blocks)

    def _load(self, config: ModelConfig, model: Transformer, blocks: int) -> None:
        model = model.float().eval()
        layers = [cast(Block, block) for block in model.model.layers]
        head = (model.lm_head.weight.detach(), None)
        self.kind = choose([*_fuse(layers[0]), head])
        self.name = f"float32 weights, PyTorch ({self.kind.name})"
        self._embedding = model.model.embed_tokens.weight.detach()
        self._layers = [_Layer(config, block, self.kind) for block in layers]
        self.norm = RowNorm(model.model.norm.weight, config.rms_norm_eps)
        self._head = self.kind.make(*head)
        self.cache = BlockCache(
            layers=config.num_hidden_layers,
            blocks=blocks,
            kv_heads=config.num_key_value_heads,
            block_size=self.block_size,
            head_dim=config.head_dim,
        )
        positions = torch.arange(min(config.max_position_embeddings, blocks * self.block_size))
        cos, sin = rope_tables(model.frequencies, positions)
        sin[:, : config.head_dim // 2].neg_()
        self._cos, self._sin = cos[:, None], sin[:, None]
        self._windows = {config.window(i) for i in range(config.num_hidden_layers)}
        self._per_kv = config.num_attention_heads // config.num_key_value_heads
        self.row_multiple, self.joint = self._probe_attention()

    @torch.inference_mode()
    def forward(self, batch: Sequence[Rows], leaving: Leaving | None = None) -> Tensor:
        """States after the final norm (tokens, C), rows in the order of `batch`, and their keys
        and values in the cache. `leaving` may end rows early."""
        positions = [p for rows in batch for p in range(rows.start, rows.start + len(rows.ids))]
        tables = [rows.table for rows in batch for _ in rows.ids]
        tokens = len(positions)
        padded = self.kind.round_rows(tokens)
        ids = torch.tensor([*(i for rows in batch for i in rows.ids), *(0,) * (padded - tokens)])
        where = torch.tensor(positions)
        owners = torch.tensor(
            [table[p // self.block_size] for table, p in zip(tables, positions, strict=True)]
        )
        slots = self.cache.rows(owners, where % self.block_size)
        groups = self._group(batch)
        x = self._embedding.index_select(0, ids)
        cos, sin = self._cos.index_select(0, where), self._sin.index_select(0, where)
        for i, layer in enumerate(self._layers):
            q, k, v = layer.project(x, tokens, cos, sin)
            self.cache.key_rows[i].index_copy_(0, slots, k)
            self.cache.value_rows[i].index_copy_(0, slots, v)
            window, keys, values = self.config.window(i), self.cache.keys[i], self.cache.values[i]
            outs = [
                attend(q[g.start : g.end], keys, values, g, window, self.row_multiple)
                for g in groups
            ]
            attended = outs[0] if len(outs) == 1 else torch.cat(outs)
            layer.finish(x, attended)
            if leaving is not None:
                leaving.after(i + 1, x)
        return self.norm(x)[:tokens]

    @torch.inference_mode()
    def head(self, hidden: Tensor) -> Tensor:
        """Logits (rows, V) of hidden states (rows, C)."""
        rows = hidden.shape[0]
        return self._head(_pad(hidden, self.kind.round_rows(rows)))[:rows]

    def _group(self, batch: Sequence[Rows]) -> list[Group]:
        """Single tokens of neighbours with tables of similar length are attended together, a chunk
        alone."""
        groups: list[Group] = []
        single: list[tuple[int, list[int]]] = []  # position, table
        start = 0
        for rows in batch:
            table = list(rows.table[: -(-(rows.start + len(rows.ids)) // self.block_size)])
            if len(rows.ids) > 1 and self.joint:
                self._flush(groups, single, start)
                where = torch.arange(rows.start, rows.start + len(rows.ids))[None]
                groups.append(self._make(start, [table], where))
                start += len(rows.ids)
                continue
            for position in range(rows.start, rows.start + len(rows.ids)):
                if single and not _similar(len(table), [len(t) for _, t in single]):
                    self._flush(groups, single, start)
                single.append((position, table))
                start += 1
        self._flush(groups, single, start)
        return groups

    def _flush(self, groups: list[Group], single: list[tuple[int, list[int]]], end: int) -> None:
        if single:
            where = torch.tensor([p for p, _ in single])[:, None]
            groups.append(self._make(end - len(single), [t for _, t in single], where))
            single.clear()

    def _make(self, start: int, tables: list[list[int]], positions: Tensor) -> Group:
        return make_group(
            start=start,
            tables=tables,
            positions=positions,
            block_size=self.block_size,
            windows=self._windows,
            heads_per_kv=self._per_kv,
            row_multiple=self.row_multiple,
        )

    def _probe_attention(self) -> tuple[int, bool]:
        """Row multiple at which a chunk's attention has the same bits as token by token on this
        machine, and whether there is one: if not, chunks are attended token by token."""
        generator = torch.Generator().manual_seed(0)
        tokens, blocks = 40, min(3, self.cache.keys.shape[1])
        tokens = min(tokens, blocks * self.block_size)
        start = blocks * self.block_size - tokens
        shape = (blocks, *self.cache.keys.shape[2:])
        keys = torch.randn(shape, generator=generator)
        values = torch.randn(shape, generator=generator)
        heads, size = self.config.num_attention_heads, self.config.head_dim
        q = torch.randn(tokens, heads, size, generator=generator)
        table, window = list(range(blocks)), next(iter(self._windows))
        where = torch.arange(start, start + tokens)
        for self.row_multiple in (4, 8, 16):
            chunk = self._make(0, [table], where[None])
            whole = attend(q, keys, values, chunk, window, self.row_multiple)
            single = self._make(0, [table] * tokens, where[:, None])
            each = attend(q, keys, values, single, window, self.row_multiple)
            one = self._make(0, [table], where[-1:, None])
            last = attend(q[-1:], keys, values, one, window, self.row_multiple)
            if torch.equal(whole, each) and torch.equal(each[-1:], last):
                return self.row_multiple, True
        return 16, False


class RowNorm:
    """Root-mean-square norm in the fewest calls: at small sizes a call costs more than the work."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight = weight.detach().clone()
        self._scale = 1.0 / weight.shape[-1]
        self._eps = torch.tensor(eps)

    def __call__(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x * torch.addcmul(self._eps, norm, norm, value=self._scale).rsqrt_()).mul_(
            self._weight
        )


class _Layer:
    """One block of the model with its products packed."""

    def __init__(
        self,
        config: ModelConfig,
        block: Block,
        kind: Kind,
    ) -> None:
        self._qkv, self._o, self._gate_up, self._down = (kind.make(w, b) for w, b in _fuse(block))
        self._before = RowNorm(block.input_layernorm.weight, config.rms_norm_eps)
        self._after = RowNorm(block.post_attention_layernorm.weight, config.rms_norm_eps)
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._size, self._inner = config.head_dim, config.intermediate_size
        self._qk_norm: RowNorm | None = None
        attention = block.self_attn
        if config.qk_norm:
            q_norm, k_norm = (cast(RMSNorm, n) for n in (attention.q_norm, attention.k_norm))
            scales = [q_norm.weight] * self._heads + [k_norm.weight] * self._kv_heads
            self._qk_norm = RowNorm(torch.stack([s.detach() for s in scales]), config.rms_norm_eps)

    def project(
        self, x: Tensor, tokens: int, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled, rotated queries (tokens, H, D), rotated keys and values (tokens · K, D)."""
        heads, kv_heads, size = self._heads, self._kv_heads, self._size
        qkv = self._qkv(self._before(x))[:tokens].view(tokens, heads + 2 * kv_heads, size)
        qk, v = qkv[:, : heads + kv_heads], qkv[:, heads + kv_heads :]
        if self._qk_norm is not None:
            qk = self._qk_norm(qk)
        # sin's first half is negated, so that swapping the halves is all of the rotation.
        halves = qk.reshape(tokens, -1, 2, size // 2).roll(1, 2).flatten(2)
        qk = torch.addcmul(halves * sin, qk, cos)
        q = qk[:, :heads] * size**-0.5
        return q, qk[:, heads:].reshape(-1, size), v.reshape(-1, size)

    def finish(self, x: Tensor, attended: Tensor) -> None:
        """Adds the attention's output and the MLP to `x`, in place; `x` may have padding rows."""
        x.add_(self._o(_pad(attended, x.shape[0])))
        both = self._gate_up(self._after(x))
        gate, up = both[:, : self._inner], both[:, self._inner :]
        x.add_(self._down(F.silu(gate).mul_(up)))


def _pad(x: Tensor, rows: int) -> Tensor:
    """`x` with rows of zeros up to `rows`."""
    return x if x.shape[0] == rows else F.pad(x, (0, 0, 0, rows - x.shape[0]))


def _fuse(block: Block) -> list[tuple[Tensor, Tensor | None]]:
    """Weights and biases of query-key-value, output, gate-up and down."""
    attention, mlp = block.self_attn, block.mlp
    return [
        _join(attention.q_proj, attention.k_proj, attention.v_proj),
        _join(attention.o_proj),
        _join(mlp.gate_proj, mlp.up_proj),
        _join(mlp.down_proj),
    ]


def _join(*linears: nn.Linear) -> tuple[Tensor, Tensor | None]:
    weight = torch.cat([linear.weight.detach() for linear in linears])
    if linears[0].bias is None:
        return weight, None
    return weight, torch.cat([linear.bias.detach() for linear in linears])


def _similar(length: int, others: list[int]) -> bool:
    """Whether padding everyone to the longest table wastes less than half of the work."""
    longest = max(length, *others)
    return longest * (len(others) + 1) <= 2 * (length + sum(others)) + 8

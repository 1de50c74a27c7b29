"""One step of the model on an accelerator: bfloat16 weights, a block cache there, CUDA graphs.

Steps in which every sequence has one row, which is most of them, are captured once for each pair of
rounded sizes (sequences, keys) and replayed: launching some ten kernels a layer would take longer
than they run. Attention is PyTorch's own over keys gathered from the blocks.

Unlike the compiled kernels, a GPU's libraries choose another order of sums for another number of
rows, so a token's bits may depend on its neighbours in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from everloop.engine.native.backend import Rows
from everloop.engine.native.leaving import Leaving
from everloop.model.config import ModelConfig
from everloop.model.rope import rope_tables
from everloop.model.transformer import Block, Transformer


@dataclass(slots=True, kw_only=True)
class Group:
    """Rows start … end-1 of a step: one token each of G sequences, or T tokens of one."""

    start: int
    end: int
    slots: Tensor  # (G, S) places of their keys in the cache
    seen: dict[int | None, Tensor]  # (G, 1, T, S) by window: True where a row looks


@dataclass(slots=True, kw_only=True)
class Step:
    """What a step reads, all on the device."""

    ids: Tensor  # (R,)
    positions: Tensor  # (R,)
    slots: Tensor  # (R,) where keys and values go
    groups: list[Group]


class DeviceCache:
    """Keys and values of all layers, (layers, slots, K, D); the last block is a scratch pad for
    rows that only fill up a batch."""

    def __init__(self, config: ModelConfig, *, blocks: int, block_size: int, like: Tensor) -> None:
        heads, size = config.num_key_value_heads, config.head_dim
        shape = (config.num_hidden_layers, (blocks + 1) * block_size, heads, size)
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.block_size, self.scratch = block_size, blocks * block_size

    def clear(self, blocks: list[int]) -> None:
        """Zeroes blocks that may hold NaN or infinity: they would reach the block's next holder."""
        for block in blocks:
            part = slice(block * self.block_size, (block + 1) * self.block_size)
            self.keys[:, part] = 0.0
            self.values[:, part] = 0.0


class DeviceRunner:
    """A model ready to be stepped on `device`, as `runner.Runner` is on the CPU."""

    def __init__(
        self,
        config: ModelConfig,
        model: Transformer,
        *,
        blocks: int,
        block_size: int,
        device: torch.device,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.config, self.blocks, self.block_size = config, blocks, block_size
        self.device = device
        self._model = model.to(device=device, dtype=dtype).eval()
        self._layers = [cast(Block, block) for block in self._model.model.layers]
        self.norm = self._model.model.norm
        like = self._model.model.embed_tokens.weight.detach()
        self.cache = DeviceCache(config, blocks=blocks, block_size=block_size, like=like)
        self._windows = {config.window(i) for i in range(config.num_hidden_layers)}
        self._graphs: dict[tuple[int, int], _Graph] = {}
        name = "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
        self.name = f"{str(dtype).removeprefix('torch.')} weights, PyTorch on {name}"

    @torch.inference_mode()
    def forward(self, batch: Sequence[Rows], leaving: Leaving | None = None) -> Tensor:
        """States after the final norm (tokens, C), rows in the order of `batch`, and their keys
        and values in the cache. `leaving` may end rows early."""
        alone = all(len(rows.ids) == 1 for rows in batch)
        asked = leaving is not None and leaving.asked
        if self.device.type == "cuda" and alone and not asked:
            return self._replay(batch)
        return self._compute(self._step(batch), leaving if asked else None)

    @torch.inference_mode()
    def head(self, hidden: Tensor) -> Tensor:
        """Logits (rows, V), float32, of hidden states (rows, C)."""
        return self._model.head(hidden).float()

    def _compute(self, step: Step, leaving: Leaving | None = None) -> Tensor:
        x = self._model.model.embed_tokens(step.ids)
        cos, sin = rope_tables(self._model.frequencies, step.positions)
        cos, sin = cos[:, None], sin[:, None]
        for i, block in enumerate(self._layers):
            attention = block.self_attn
            q, k, v = attention.project(block.input_layernorm(x), cos, sin)
            self.cache.keys[i].index_copy_(0, step.slots, k)
            self.cache.values[i].index_copy_(0, step.slots, v)
            window = self.config.window(i)
            outs = [self._attend(i, q[g.start : g.end], g, window) for g in step.groups]
            x = x + attention.o_proj(outs[0] if len(outs) == 1 else torch.cat(outs))
            x = x + block.mlp(block.post_attention_layernorm(x))
            if leaving is not None:
                leaving.after(i + 1, x)
        out: Tensor = self.norm(x)
        return out

    def _attend(self, layer: int, q: Tensor, group: Group, window: int | None) -> Tensor:
        """Attention outputs (rows, H · D) of one group."""
        sequences, length = group.slots.shape
        shape = (sequences, length, *self.cache.keys.shape[2:])
        places = group.slots.flatten()
        k = self.cache.keys[layer].index_select(0, places).view(shape).transpose(1, 2)
        v = self.cache.values[layer].index_select(0, places).view(shape).transpose(1, 2)
        rows = q.shape[0] // sequences
        q = q.view(sequences, rows, *q.shape[1:]).transpose(1, 2)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=group.seen[window], enable_gqa=q.shape[1] != k.shape[1]
        )
        return out.transpose(1, 2).reshape(sequences * rows, -1)

    def _step(self, batch: Sequence[Rows]) -> Step:
        """A batch as tensors: single rows together, each longer piece for itself."""
        ids = [i for rows in batch for i in rows.ids]
        positions = [p for rows in batch for p in range(rows.start, rows.start + len(rows.ids))]
        slots = [s for rows in batch for s in self._slots(rows, rows.start)]
        groups, at, single = [], 0, list[Rows]()
        for rows in batch:
            if len(rows.ids) == 1:
                single.append(rows)
                at += 1
                continue
            if single:
                groups.append(self._group(at - len(single), single))
                single = []
            groups.append(self._group(at, [rows]))
            at += len(rows.ids)
        if single:
            groups.append(self._group(at - len(single), single))
        return Step(
            ids=self._put(ids),
            positions=self._put(positions),
            slots=self._put(slots),
            groups=groups,
        )

    def _group(self, start: int, members: list[Rows]) -> Group:
        size = len(members[0].ids)
        longest = max(rows.start for rows in members) + size
        slots = [self._slots(rows, 0) for rows in members]
        padded = self._put([s + [self.cache.scratch] * (longest - len(s)) for s in slots])
        first = self._put([rows.start for rows in members])
        where = first[:, None] + torch.arange(size, device=self.device)
        return Group(
            start=start,
            end=start + len(members) * size,
            slots=padded,
            seen=self._seen(where, longest),
        )

    def _seen(self, where: Tensor, length: int) -> dict[int | None, Tensor]:
        """Which of the first `length` keys rows at positions `where` (G, T) look at, by window."""
        keys = torch.arange(length, device=self.device)
        queries = where[:, None, :, None]
        seen = {}
        for window in self._windows:
            mask = keys <= queries
            seen[window] = mask if window is None else mask & (keys > queries - window)
        return seen

    def _slots(self, rows: Rows, start: int) -> list[int]:
        """Places in the cache of the tokens from `start` on."""
        size, end = self.block_size, rows.start + len(rows.ids)
        return [rows.table[p // size] * size + p % size for p in range(start, end)]

    def _put(self, values: object) -> Tensor:
        return torch.tensor(values, dtype=torch.int64).to(self.device, non_blocking=True)

    def _replay(self, batch: Sequence[Rows]) -> Tensor:
        """A step of single rows by its graph, captured when it is first needed."""
        longest = max(rows.start for rows in batch) + 1
        sizes = _rounded(len(batch), 1), _rounded(longest, 128)
        if sizes not in self._graphs:
            self._graphs[sizes] = _Graph(self, *sizes)
        return self._graphs[sizes].run(batch)


class _Graph:
    """A captured step of `rows` single tokens with up to `length` keys each."""

    def __init__(self, runner: DeviceRunner, rows: int, length: int) -> None:
        self._runner, self._rows, self._length = runner, rows, length
        blocks = -(-length // runner.block_size)
        # Token, position and block table of each row, written here and copied in one piece.
        self._host = torch.zeros(rows, 2 + blocks, dtype=torch.int64).pin_memory()
        self._host[:, 2:] = runner.blocks  # the scratch block
        self._inputs = self._host.to(runner.device)
        warm = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        warm.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm):
            for _ in range(2):
                self._compute()
        torch.cuda.current_stream().wait_stream(warm)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._out = self._compute()

    def run(self, batch: Sequence[Rows]) -> Tensor:
        """States after the final norm (len(batch), C), valid until the next run."""
        self._host.zero_()
        self._host[:, 2:] = self._runner.blocks
        for i, rows in enumerate(batch):
            table = rows.table[: rows.start // self._runner.block_size + 1]
            line = [rows.ids[0], rows.start, *table]
            self._host[i, : len(line)] = torch.tensor(line)
        self._inputs.copy_(self._host, non_blocking=True)
        self._graph.replay()
        torch.cuda.current_stream().synchronize()  # the pinned copy is written again next time
        return self._out[: len(batch)]

    def _compute(self) -> Tensor:
        size = self._runner.block_size
        ids, where, tables = self._inputs[:, 0], self._inputs[:, 1], self._inputs[:, 2:]
        keys = torch.arange(self._length, device=self._runner.device)
        slots = tables[:, keys // size] * size + keys % size
        own = tables.gather(1, where[:, None] // size)[:, 0] * size + where % size
        seen = self._runner._seen(where[:, None], self._length)
        group = Group(start=0, end=self._rows, slots=slots, seen=seen)
        return self._runner._compute(Step(ids=ids, positions=where, slots=own, groups=[group]))


def _rounded(count: int, least: int) -> int:
    """`count` up to the next size that has a graph: powers of two and halves between them."""
    size = least
    while size < count:
        if size % 2 == 0 and size * 3 // 2 >= count:
            return size * 3 // 2
        size *= 2
    return size

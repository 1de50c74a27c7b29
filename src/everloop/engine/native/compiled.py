"""The model in compiled kernels, with weights of 8 or 4 bits (`native/`)."""

from __future__ import annotations

import ctypes as c
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from everloop.engine.native import library
from everloop.engine.native.backend import (
    Backend,
    Choice,
    Exit,
    Floats,
    Rows,
    Sampler,
    Top,
    Writer,
    Written,
)
from everloop.engine.native.packed import PackedModel
from everloop.model.early_exit import EarlyExits

SCORED_ROWS = 64
"""Rows of logits that there is room for at least."""


class CompiledSampler(Sampler):
    """A sampler inside the library."""

    __slots__ = ("_free", "handle")

    def __init__(self, native: Any, choice: Choice, seed: int) -> None:
        rules = library.Rules(
            temperature=choice.temperature,
            top_p=choice.top_p,
            min_p=choice.min_p,
            presence_penalty=choice.presence_penalty,
            frequency_penalty=choice.frequency_penalty,
            repetition_penalty=choice.repetition_penalty,
            top_k=min(choice.top_k, 2**31 - 1),
            seed=seed % 2**64,
        )
        prompt = _ints(choice.prompt)
        ids = _ints(choice.logit_bias)
        values = np.fromiter(choice.logit_bias.values(), np.float32, len(choice.logit_bias))
        self._free = native.sampler_free
        self.handle = native.sampler_new(c.byref(rules), prompt, len(prompt), ids, values, len(ids))
        if not self.handle:
            raise MemoryError

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self._free(self.handle)


class CompiledBackend(Backend):
    """Steps of a packed model."""

    block_size = 32  # kBlock

    def __init__(
        self,
        model: PackedModel,
        *,
        blocks: int,
        threads: int,
        max_rows: int,
        isa: str | None = None,
        kv_bits: int = 16,
    ) -> None:
        """`max_rows` bounds the tokens of one batch; `kv_bits`, 16 or 8, are those of a number in
        the key-value cache."""
        assert kv_bits in (16, 8)
        self._native: Any = library.load(isa)
        self._packed = model  # owns the memory that the library reads
        self.name = f"{model.bits}-bit weights, {self._native.isa}"
        self.threads, self.blocks, self.max_rows = threads, blocks, max_rows
        config = model.config
        self.vocab_size, self._hidden = config.vocab_size, config.hidden_size
        shape = library.Shape(
            vocabulary=config.vocab_size,
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            qk_norm=config.qk_norm,
            eps=config.rms_norm_eps,
            kv_bits=kv_bits,
        )
        self._model = self._native.model_new(
            c.byref(shape), self._native.isa.encode(), threads, blocks, max_rows
        )
        if not self._model:
            raise MemoryError(f"no memory for a cache of {blocks} blocks")
        for i in range(config.num_hidden_layers):
            self._native.model_layer(self._model, i, c.byref(self._layer(i)))
        self._native.model_ends(
            self._model,
            c.byref(self._matrix("embedding")),
            c.byref(self._matrix("head")),
            model.array("norm"),
            model.array("frequencies"),
        )
        self._logits = np.empty((max(SCORED_ROWS, 1), self.vocab_size), np.float32)
        self._may_leave = 0  # rows of the last steps, where any might

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self._native.model_free(self._model)

    def open_exits(self, exits: EarlyExits) -> None:
        self._gates = exits  # the library reads its memory
        for layer, gate in exits.gates.items():
            self._native.model_gate(
                self._model, layer, len(gate.out), gate.into, gate.offsets, gate.out
            )

    def left(self) -> list[bool]:
        out = np.empty(self._may_leave, np.uint8)
        done = self._native.left(self._model, len(out), out)
        return cast(list[bool], out[:done].astype(bool).tolist())

    def _allow(self, exits: Sequence[Exit | None], rows: int) -> None:
        """Says who may leave early in the next steps, of `rows` rows at most."""
        asked = any(exits)
        if not asked and not self._may_leave:
            return
        self._may_leave = rows if asked else 0
        plain = (library.Exit * len(exits))()
        for one, exit_ in zip(plain, exits, strict=True):
            if exit_ is not None:
                one.layer, one.start, one.threshold = exit_.layer, exit_.start, exit_.threshold
        self._check(self._native.exits(self._model, plain, len(exits) if asked else 0))

    def forward(self, batch: Sequence[Rows]) -> list[bool]:
        lengths = [len(rows.ids) for rows in batch]
        assert sum(lengths) <= self.max_rows
        self._allow([rows.exit for rows in batch], sum(lengths))
        pieces = np.empty((len(batch), 4), np.int32)
        pieces[:, 0] = [rows.start for rows in batch]
        pieces[:, 1] = lengths
        pieces[:, 2] = [0, *accumulate(lengths[:-1])]
        pieces[:, 3] = [0, *accumulate(len(rows.table) for rows in batch[:-1])]
        ids = _flat([rows.ids for rows in batch])
        tables = _flat([rows.table for rows in batch])
        fine = np.empty(len(batch), np.uint8)
        self._check(self._native.forward(self._model, pieces, len(batch), ids, tables, fine))
        return cast(list[bool], fine.astype(bool).tolist())

    def hidden(self, rows: Sequence[int]) -> Floats:
        out = np.empty((len(rows), self._hidden), np.float32)
        self._native.hidden(self._model, _ints(rows), len(rows), out)
        return out

    def logits(self, rows: Sequence[int]) -> Floats:
        out = self._room(len(rows))
        self._native.logits(self._model, _ints(rows), len(rows), out)
        return out

    def logprobs(
        self, logits: Floats, targets: Sequence[int], tops: Sequence[int]
    ) -> list[tuple[float, Top]]:
        count, most = len(targets), min(max(tops), self.vocab_size)
        own = np.empty(count, np.float64)
        ids = np.empty((count, most), np.int32)
        values = np.empty((count, most), np.float64)
        self._check(
            self._native.logprobs(
                self._model,
                logits,
                count,
                _ints(targets),
                most,
                own,
                ids,
                values,
            )
        )
        rows = zip(own.tolist(), ids.tolist(), values.tolist(), tops, strict=True)
        return [(o, list(zip(i[:n], v[:n], strict=True))) for o, i, v, n in rows]

    def sampler(self, choice: Choice, seed: int) -> CompiledSampler:
        return CompiledSampler(self._native, choice, seed)

    def verify(
        self, logits: Floats, samplers: Sequence[Sampler], drafts: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        out: list[list[int]] = []
        row = 0
        for sampler, draft in zip(samplers, drafts, strict=True):
            tokens = np.empty(len(draft) + 1, np.int32)
            ids = _ints(draft)
            done = self._native.verify(
                self._model,
                cast(CompiledSampler, sampler).handle,
                logits[row:],
                ids,
                len(draft),
                tokens,
            )
            if done < 0:
                raise MemoryError
            out.append(tokens[:done].tolist())
            row += len(draft) + 1
        return out

    def clear(self, blocks: Sequence[int]) -> None:
        self._native.clear(self._model, _ints(blocks), len(blocks))

    def write(self, writers: Sequence[Writer], steps: int) -> Written:
        count = len(writers)
        self._allow([w.exit for w in writers], steps * sum(w.width + 1 for w in writers))
        pieces = np.zeros((count, 4), np.int32)
        pieces[:, 0] = [w.position for w in writers]
        pieces[:, 3] = [0, *accumulate(len(w.table) for w in writers[:-1])]
        ends_at = [0, *accumulate(len(w.ends) for w in writers)]
        drafts_at = [0, *accumulate(len(w.draft) for w in writers)]
        out_at = [0, *accumulate(steps * (w.width + 1) for w in writers)]
        made, broken = np.empty(count, np.int32), np.empty(count, np.uint8)
        out, rows = np.empty(out_at[-1], np.int32), c.c_int32()
        left = np.empty(out_at[-1], np.uint8)
        done = self._native.write(
            self._model,
            pieces,
            count,
            _ints([w.id for w in writers]),
            _flat([w.table for w in writers]),
            np.array([cast(CompiledSampler, w.sampler).handle for w in writers], np.uintp),
            _flat([w.ends for w in writers]),
            _ints(ends_at),
            _flat([w.draft for w in writers]),
            _ints(drafts_at),
            _ints([w.width for w in writers]),
            steps,
            self._room(sum(w.width + 1 for w in writers)),
            out,
            _ints(out_at),
            left,
            made,
            broken,
            c.byref(rows),
        )
        if done < 0:
            raise MemoryError
        places = [slice(at, at + n) for at, n in zip(out_at[:-1], made.tolist(), strict=True)]
        may_leave = any(w.exit for w in writers)
        return Written(
            tokens=[out[place].tolist() for place in places],
            left=[left[place].astype(bool).tolist() if may_leave else [] for place in places],
            broken=np.flatnonzero(broken).tolist(),
            steps=done,
            rows=rows.value,
        )

    def _room(self, rows: int) -> Floats:
        if len(self._logits) < rows:
            self._logits = np.empty((rows, self.vocab_size), np.float32)
        return self._logits[:rows]

    def _check(self, failed: int) -> None:
        if failed:
            raise MemoryError

    def _layer(self, index: int) -> library.Layer:
        def vector(name: str) -> int | None:
            array = self._packed.find(f"layers.{index}.{name}")
            return None if array is None else array.ctypes.data

        config = self._packed.config
        return library.Layer(
            qkv=self._matrix(f"layers.{index}.qkv"),
            o=self._matrix(f"layers.{index}.o"),
            gate_up=self._matrix(f"layers.{index}.gate_up"),
            down=self._matrix(f"layers.{index}.down"),
            before=vector("before"),
            after=vector("after"),
            q_norm=vector("q_norm"),
            k_norm=vector("k_norm"),
            window=config.window(index) or 0,
        )

    def _matrix(self, name: str) -> library.Matrix:
        matrix = self._packed.matrix(name)
        return library.Matrix(
            bits=matrix.bits,
            outputs=matrix.outputs,
            inputs=matrix.inputs,
            data=matrix.data.ctypes.data,
            bias=None if matrix.bias is None else matrix.bias.ctypes.data,
        )


def _ints(values: Any) -> npt.NDArray[np.int32]:
    return np.fromiter(values, np.int32, len(values))


def _flat(parts: Sequence[Any]) -> npt.NDArray[np.int32]:
    return np.fromiter(chain.from_iterable(parts), np.int32)

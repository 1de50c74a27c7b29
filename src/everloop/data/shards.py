"""The packed form of training data: flat token files that a trainer maps into memory.

A packed directory has `manifest.json` and, for each split and shard number,
`SPLIT-00000.tokens` (uint16 or uint32, little endian), `.offsets` (uint64: where each document
starts, and the end; a long document is several here), `.sources` (uint16: which source of the
manifest a document is from) and, where task data is inside, `.mask` (uint8: 1 where the token is
a target).
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from everloop.data.split import SPLITS
from everloop.errors import DataError, InvalidRequest, NotFound

Tokens = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.uint8]
MANIFEST = "manifest.json"
FORMAT_VERSION = 1


def token_type(vocab_size: int) -> str:
    """uint16 where every id fits, else uint32."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


class ShardWriter:
    """Appends documents of one split; can go back to any point it was asked to make durable."""

    def __init__(
        self, directory: Path, split: str, *, dtype: str, masked: bool, shard_tokens: int
    ) -> None:
        self.directory = directory
        self.split = split
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.shard_tokens = shard_tokens
        self.kinds = ("tokens", "offsets", "sources", *(("mask",) if masked else ()))
        self.index = 0
        self.documents = 0  # of the current shard
        self.tokens = 0
        self._files: dict[str, IO[bytes]] = {}

    def add(self, ids: Tokens, mask: Mask | None, source: int) -> None:
        """One document; without a mask every token is a target."""
        if self.documents and self.tokens + len(ids) > self.shard_tokens:
            self._close()
            self.index, self.documents, self.tokens = self.index + 1, 0, 0
        if not self._files:
            self._open()
        self.tokens += len(ids)
        self.documents += 1
        self._files["tokens"].write(ids.astype(self.dtype, copy=False).tobytes())
        self._files["offsets"].write(self.tokens.to_bytes(8, "little"))
        self._files["sources"].write(source.to_bytes(2, "little"))
        if "mask" in self._files:
            ones = mask if mask is not None else np.ones(len(ids), np.uint8)
            self._files["mask"].write(ones.astype(np.uint8, copy=False).tobytes())

    def checkpoint(self) -> dict[str, int]:
        """Make everything so far durable; the answer brings `resume` back to here."""
        for stream in self._files.values():
            stream.flush()
            os.fsync(stream.fileno())
        return {"index": self.index, "documents": self.documents, "tokens": self.tokens}

    def resume(self, state: dict[str, int]) -> None:
        """Drop whatever was written after `state`."""
        self.index, self.documents, self.tokens = (
            state["index"],
            state["documents"],
            state["tokens"],
        )
        for path in self.directory.glob(f"{self.split}-*"):
            number = int(path.name.removeprefix(f"{self.split}-").partition(".")[0])
            if number > self.index or (number == self.index and not self.documents):
                path.unlink()
        if self.documents:
            for kind, size in self._sizes().items():
                os.truncate(self._path(kind), size)
            self._open()

    def finish(self) -> int:
        """Close; the number of shards."""
        self._close()
        return self.index + (self.documents > 0)

    def abandon(self) -> None:
        """Close after an error; what can't be written any more was not promised."""
        for stream in self._files.values():
            with contextlib.suppress(OSError):
                stream.close()
        self._files = {}

    def _sizes(self) -> dict[str, int]:
        sizes = {
            "tokens": self.tokens * self.dtype.itemsize,
            "offsets": (self.documents + 1) * 8,
            "sources": self.documents * 2,
            "mask": self.tokens,
        }
        return {kind: sizes[kind] for kind in self.kinds}

    def _path(self, kind: str) -> Path:
        return shard_path(self.directory, self.split, self.index, kind)

    def _open(self) -> None:
        self._files = {kind: open(self._path(kind), "ab") for kind in self.kinds}  # noqa: SIM115
        if not self.documents:
            self._files["offsets"].write(bytes(8))

    def _close(self) -> None:
        for stream in self._files.values():
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
        self._files = {}


def shard_path(directory: Path, split: str, index: int, kind: str) -> Path:
    """Where one file of a shard lies."""
    return directory / f"{split}-{index:05d}.{kind}"


@dataclass(frozen=True, slots=True)
class _Shard:
    tokens: Tokens
    offsets: npt.NDArray[np.uint64]
    mask: Mask | None


class PackedDataset:
    """Documents of one split of a packed directory, mapped into memory. Safe to share between
    threads and processes; raises NotFound or DataError if the directory isn't whole."""

    def __init__(self, directory: Path | str, split: str = "train") -> None:
        self.directory = Path(directory)
        self.split = split
        self.manifest = read_manifest(self.directory)
        if split not in SPLITS:
            raise InvalidRequest(f"split is {split!r}: one of {', '.join(SPLITS)}.", param="split")
        listed = self.manifest["splits"][split]["shards"]
        self._shards = [self._map(i, shard) for i, shard in enumerate(listed)]
        counts = [len(s.offsets) - 1 for s in self._shards]
        self._first = np.cumsum([0, *counts])
        empty = np.zeros(0, np.int64)
        self.lengths: npt.NDArray[np.int64] = np.concatenate(
            [empty, *(np.diff(s.offsets.astype(np.int64)) for s in self._shards)]
        )
        """Tokens of each document."""
        self.source_of: npt.NDArray[np.uint16] = np.concatenate(
            [
                empty.astype(np.uint16),
                *(self._array(i, "sources", "<u2") for i in range(len(counts))),
            ]
        )
        """Index of each document's source in `manifest["sources"]`."""

    def __len__(self) -> int:
        return int(self._first[-1])

    def document(self, i: int) -> tuple[Tokens, Mask | None]:
        """Ids and target mask (None: every token is a target) of document `i`, as views."""
        if not 0 <= i < len(self):
            raise IndexError(f"document {i} of {len(self)}")
        number = int(np.searchsorted(self._first, i, side="right")) - 1
        shard = self._shards[number]
        at = i - int(self._first[number])
        start, end = int(shard.offsets[at]), int(shard.offsets[at + 1])
        return shard.tokens[start:end], None if shard.mask is None else shard.mask[start:end]

    def _map(self, index: int, listed: dict[str, int]) -> _Shard:
        tokens = self._array(index, "tokens", np.dtype(self.manifest["dtype"]).newbyteorder("<"))
        offsets = self._array(index, "offsets", "<u8")
        mask = self._array(index, "mask", "u1") if self.manifest["masked"] else None
        if len(tokens) != listed["tokens"] or len(offsets) != listed["pieces"] + 1:
            raise DataError(
                f"has {len(tokens)} tokens in {len(offsets) - 1} pieces; the manifest says "
                f"{listed['tokens']} in {listed['pieces']}.",
                path=str(shard_path(self.directory, self.split, index, "tokens")),
                repair="Pack again.",
            )
        return _Shard(tokens, offsets, mask)

    def _array(self, index: int, kind: str, dtype: Any) -> Any:
        path = shard_path(self.directory, self.split, index, kind)
        try:
            return np.memmap(path, dtype=dtype, mode="r")
        except (OSError, ValueError) as error:
            raise DataError(
                f"can't be mapped ({error}).", path=str(path), repair="Pack again."
            ) from None


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a packed directory."""
    path = directory / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(
            f"{directory} is not a packed data directory: {MANIFEST} is missing. "
            "Make one with: everloop data pack SPEC --tokenizer DIR --out DIR",
            param="data",
        ) from None
    except ValueError as error:
        raise DataError(
            f"is not valid JSON ({error}).", path=str(path), repair="Pack again."
        ) from None
    if manifest.get("format") != FORMAT_VERSION:
        raise DataError(
            f"has format {manifest.get('format')!r}; this version reads {FORMAT_VERSION}.",
            path=str(path),
            repair="Pack again.",
        )
    return manifest

"""A model's weights in the kernels' own layout: a safetensors file, packed once, memory-mapped.

    name                        type  what
    layers.N.{qkv,o,gate_up,down}  U8   a matrix as native/matrix.h lays it out
    layers.N.{qkv,o,gate_up,down}.bias  F32
    layers.N.{before,after,q_norm,k_norm}  F32  norm weights
    embedding, head             U8    matrices; one for both where they are tied
    norm, frequencies           F32

Every tensor begins at a multiple of 64 bytes. The metadata's `key` names the model, its version
and this layout's: a file with another key is made again, as is one that is broken.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.engine.native.backend import Floats
from everloop.errors import DataError, EverloopError, InvalidRequest
from everloop.model.config import ModelConfig
from everloop.model.safetensors import read_header

VERSION = 3
"""Of the layout; raised whenever packed bytes change."""

ALIGNMENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedMatrix:
    """A matrix in panels. `bias` is padded to whole panels."""

    bits: int
    outputs: int
    inputs: int
    data: npt.NDArray[np.uint8]
    bias: Floats | None


class PackedModel:
    """A packed file, mapped into memory: all processes that serve it share its pages."""

    def __init__(self, path: Path, config: ModelConfig, key: str) -> None:
        """Raises DataError where the file is not what `key` names."""
        header = read_header(path)
        if header.metadata.get("key") != key:
            raise DataError("is the packed form of something else.", path=str(path))
        self.path, self.config = path, config
        self.bits = int(header.metadata["bits"])
        self._matrices = json.loads(header.metadata["matrices"])
        self._header = header.tensors
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        _use_huge_pages(self._bytes)
        for name, info in header.tensors.items():
            if info.start % ALIGNMENT:
                raise DataError(f"has {name} at an odd place.", path=str(path))
        self.size = sum(info.end - info.start for info in header.tensors.values())

    def find(self, name: str) -> Floats | None:
        """A float tensor, or None."""
        info = self._header.get(name)
        if info is None:
            return None
        assert info.dtype == "F32"
        count = (info.end - info.start) // 4
        return np.frombuffer(self._bytes, np.float32, count, info.start)

    def array(self, name: str) -> Floats:
        """A float tensor that must be there."""
        found = self.find(name)
        if found is None:
            raise DataError(f"lacks {name}.", path=str(self.path))
        return found

    def matrix(self, name: str) -> PackedMatrix:
        """A matrix with its bias."""
        if name == "head" and name not in self._matrices:
            name = "embedding"
        bits, outputs, inputs = self._matrices[name]
        info = self._header[name]
        data = np.frombuffer(self._bytes, np.uint8, info.end - info.start, info.start)
        bias = self.find(f"{name}.bias")
        return PackedMatrix(bits=bits, outputs=outputs, inputs=inputs, data=data, bias=bias)


def open_packed(directory: Path, adapter: Path | None, *, bits: int, cache: Path) -> PackedModel:
    """The packed form of a model directory (with an adapter merged in): from `cache` if it is
    there and whole, otherwise packed now, in a process of its own, so that PyTorch and the
    unpacked weights leave no trace in this one's memory."""
    config = ModelConfig.load(directory)
    key = source_key(directory, adapter, bits)
    path = cache / f"{key[:32]}.q{bits}.safetensors"
    if path.exists():
        try:
            return PackedModel(path, config, key)
        except (DataError, KeyError, ValueError, OSError):
            path.unlink(missing_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    setup = {
        "directory": str(directory),
        "adapter": None if adapter is None else str(adapter),
        "bits": bits,
        "path": str(path),
        "key": key,
    }
    done = subprocess.run(
        [sys.executable, "-P", "-m", "everloop.engine.native.packing", json.dumps(setup)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise _failure(done.stdout)
    return PackedModel(path, config, key)


def source_key(directory: Path, adapter: Path | None, bits: int) -> str:
    """Names weights and layout without reading the weights: files by name, size and time."""
    digest = hashlib.sha256(f"everloop packed {VERSION} {bits} bits".encode())
    for folder in (directory, adapter):
        digest.update(b"\0next")
        for path in sorted(folder.iterdir()) if folder is not None else ():
            if path.name.endswith((".safetensors", ".safetensors.index.json", "config.json")):
                status = path.stat()
                digest.update(f"\0{path.name}\0{status.st_size}\0{status.st_mtime_ns}".encode())
        digest.update(f"\0{folder and folder.resolve()}".encode())
    return digest.hexdigest()


def write_packed(
    path: Path,
    shapes: dict[str, tuple[str, int]],
    parts: Iterator[tuple[str, npt.NDArray[Any]]],
    metadata: dict[str, str],
) -> None:
    """Writes a packed file, all or nothing. `shapes` gives each tensor's type and bytes (multiples
    of 64) in order, `parts` the tensors in the same order: only one is in memory at a time."""
    entries: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for name, (dtype, size) in shapes.items():
        assert size % ALIGNMENT == 0
        count = size // (4 if dtype == "F32" else 1)
        entries[name] = {
            "dtype": dtype,
            "shape": [count],
            "data_offsets": [position, position + size],
        }
        position += size
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-(len(header) + 8) % ALIGNMENT)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            for (name, array), (expected, (_, size)) in zip(parts, shapes.items(), strict=True):
                assert (name, array.nbytes) == (expected, size)
                file.write(array.data)
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                # Pages stay in memory as they were written; read again, they come as huge ones.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def _use_huge_pages(mapped: mmap.mmap) -> None:
    """Weights are read from end to end for every token: with pages of 2 MB instead of 4 KB the
    processor looks up few addresses. Only a wish: not every kernel and file system has them."""
    with contextlib.suppress(AttributeError, OSError):
        mapped.madvise(mmap.MADV_HUGEPAGE)


def _failure(output: bytes) -> EverloopError:
    """The packing process's own words."""
    try:
        told = json.loads(output.decode().splitlines()[-1])
        kind = InvalidRequest if told["kind"] == InvalidRequest.__name__ else EverloopError
        return kind(told["message"], param=told["param"])
    except (ValueError, IndexError, KeyError):
        return EverloopError("The model's weights could not be packed: see the log above.")

"""Bytes of a file, decompressed while they are read; and files written so that a crash leaves
either the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import lzma
import os
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard

from everloop.errors import DataError, EverloopError, NotFound

COMPRESSED = (".gz", ".xz", ".zst")
CHUNK = 1 << 20
# Small, because one compressed byte of zstd can become thousands: this bounds what one step yields.
_ZSTD_STEP = 1 << 13


def open_bytes(path: Path) -> BufferedReader:
    """Open for reading; a missing or unreadable file is an error that names it."""
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file.", param="files") from None
    except OSError as error:
        raise DataError(f"can't be read: {error.strerror}.", path=str(path)) from None


def chunks(path: Path) -> Iterator[bytes]:
    """The file's content in pieces of about 1 MiB; gzip, xz and zstd are known by their first
    bytes, whatever the name says. A damaged or cut archive raises DataError."""
    with open_bytes(path) as raw:
        magic = raw.read(6)
        raw.seek(0)
        try:
            if magic.startswith(b"\x1f\x8b"):
                with gzip.GzipFile(fileobj=raw) as stream:
                    yield from _blocks(stream)
            elif magic.startswith(b"\xfd7zXZ\x00"):
                with lzma.LZMAFile(raw) as stream:
                    yield from _blocks(stream)
            elif magic.startswith(b"\x28\xb5\x2f\xfd"):
                yield from _zstd(raw)
            else:
                yield from _blocks(raw)
        except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as e:
            raise DataError(
                f"the compressed file is damaged or was cut off ({e}).",
                path=str(path),
                repair="Copy or download it again.",
            ) from None


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _blocks(stream: _Readable) -> Iterator[bytes]:
    while block := stream.read(CHUNK):
        yield block


def _zstd(raw: BufferedReader) -> Iterator[bytes]:
    # A decompression object rather than stream_reader, which ends silently on a cut file.
    parts: list[bytes] = []
    held = 0
    frame = None
    while step := raw.read(_ZSTD_STEP):
        while step:
            if frame is None:
                frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
            parts.append(frame.decompress(step))
            held += len(parts[-1])
            step = b""
            if frame.eof:
                step, frame = frame.unused_data, None
        if held >= CHUNK:
            yield b"".join(parts)
            parts, held = [], 0
    if held:
        yield b"".join(parts)
    if frame is not None:
        raise EOFError("the last zstd frame has no end")


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of the file as stored (compressed)."""
    with open_bytes(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_directory(path: Path) -> None:
    """Make renames inside `path` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the name `path` only when it is whole and on disk; nothing is
    left behind when the writing fails."""
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_errors(path):
        try:
            with open(temporary, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` under a temporary name, sync, rename over `path`."""
    with atomic_file(path) as stream:
        stream.write(content)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a quota or a read-only place into an error with a repair."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DataError(
                "no space left to write it.",
                path=str(path),
                repair="Free some disk space (or choose another --out) and run the same command "
                "again: it continues where it stopped.",
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
            raise EverloopError(
                f"{path}: can't be written ({error.strerror}). Choose another --out.", param="out"
            ) from error
        raise

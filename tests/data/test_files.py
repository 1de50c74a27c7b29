"""Compressed and damaged files, and files that appear whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import lzma
from pathlib import Path

import pytest
import zstandard

from everloop.data.files import atomic_file, chunks, sha256_file, write_atomic
from everloop.errors import DataError, EverloopError, NotFound

CONTENT = bytes(range(256)) * 8000
COMPRESS = {
    "plain": lambda data: data,
    "gz": gzip.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


@pytest.mark.parametrize("kind", COMPRESS)
def test_content_comes_back_in_bounded_pieces(write, kind: str) -> None:
    pieces = list(chunks(write("misnamed.dat", COMPRESS[kind](CONTENT))))
    assert b"".join(pieces) == CONTENT
    assert max(map(len, pieces)) <= 4 << 20


@pytest.mark.parametrize("kind", ["gz", "xz", "zst"])
@pytest.mark.parametrize("cut", [0.3, 0.99])
def test_a_cut_archive_is_an_error(write, kind: str, cut: float) -> None:
    data = COMPRESS[kind](CONTENT + hashlib.sha512(CONTENT).digest() * 100)
    path = write(f"a.{kind}", data[: int(len(data) * cut)])
    with pytest.raises(DataError, match=rf"a\.{kind}: the compressed file is damaged or was cut"):
        list(chunks(path))


@pytest.mark.parametrize("kind", ["gz", "xz", "zst"])
def test_a_damaged_archive_is_an_error(write, kind: str) -> None:
    data = bytearray(COMPRESS[kind](CONTENT))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(DataError, match="damaged"):
        list(chunks(write("a", bytes(data))))


def test_several_frames_in_one_file(write) -> None:
    path = write("a.zst", zstandard.compress(b"one\n") + zstandard.compress(b"two\n"))
    assert b"".join(chunks(path)) == b"one\ntwo\n"


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"none\.txt: no such file"):
        list(chunks(tmp_path / "none.txt"))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't be read"):
        list(chunks(tmp_path))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, b"old")

    def fail() -> None:
        with atomic_file(path) as stream:
            stream.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.glob("*a.json*")) == [path]


def test_a_place_that_cannot_be_written_names_the_flag(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EverloopError, match="Choose another --out"):
        write_atomic(tmp_path / "file" / "below", b"")


def test_sha256_is_of_the_file_as_stored(write) -> None:
    assert sha256_file(write("a", b"abc")) == hashlib.sha256(b"abc").hexdigest()

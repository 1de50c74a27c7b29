"""The files a trainer maps: what was written comes back, damage is found when opening."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.data.shards import PackedDataset, ShardWriter, shard_path, token_type
from everloop.errors import DataError, InvalidRequest, NotFound

_IDS = st.lists(st.integers(0, 65_535), min_size=1, max_size=12)


def write(directory: Path, documents: list[list[int]], *, masked: bool, shard_tokens: int) -> None:
    writer = ShardWriter(
        directory, "train", dtype="uint16", masked=masked, shard_tokens=shard_tokens
    )
    for i, ids in enumerate(documents):
        mask = np.array([j % 2 for j in range(len(ids))], np.uint8) if i % 2 else None
        writer.add(np.array(ids), mask if masked else None, i % 3)
    listed = []
    for i in range(writer.finish()):
        offsets = np.fromfile(shard_path(directory, "train", i, "offsets"), "<u8")
        listed.append({"tokens": int(offsets[-1]), "pieces": len(offsets) - 1})
    splits = {"train": {"shards": listed}, "validation": {"shards": []}}
    manifest = {"format": 1, "dtype": "uint16", "masked": masked, "splits": splits}
    (directory / "manifest.json").write_text(json.dumps(manifest))


@settings(max_examples=40)
@given(
    documents=st.lists(_IDS, min_size=1, max_size=25),
    masked=st.booleans(),
    shard_tokens=st.integers(12, 60),
)
def test_documents_come_back(tmp_path_factory, documents, masked, shard_tokens) -> None:
    directory = tmp_path_factory.mktemp("packed")
    write(directory, documents, masked=masked, shard_tokens=shard_tokens)
    data = PackedDataset(directory)
    assert len(data) == len(documents)
    assert data.lengths.tolist() == [len(d) for d in documents]
    assert data.source_of.tolist() == [i % 3 for i in range(len(documents))]
    for i, ids in enumerate(documents):
        found, mask = data.document(i)
        assert found.tolist() == ids
        if not masked:
            assert mask is None
        else:
            assert mask.tolist() == ([j % 2 for j in range(len(ids))] if i % 2 else [1] * len(ids))
    sizes = [p.stat().st_size // 2 for p in directory.glob("*.tokens")]
    assert max(sizes) <= shard_tokens
    assert len(PackedDataset(directory, "validation")) == 0


@settings(max_examples=40)
@given(
    documents=st.lists(_IDS, min_size=1, max_size=25),
    stops=st.sets(st.integers(0, 25)),
    garbage=st.binary(max_size=40),
)
def test_going_back_to_a_checkpoint_changes_no_byte(
    tmp_path_factory, documents, stops, garbage
) -> None:
    """Killed after each stop with unsynced rubbish behind it, and continued."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")

    def writer(directory: Path) -> ShardWriter:
        return ShardWriter(directory, "train", dtype="uint16", masked=True, shard_tokens=30)

    whole = writer(one)
    for ids in documents:
        whole.add(np.array(ids), None, 0)
    whole.finish()
    current = writer(two)
    for i, ids in enumerate(documents):
        if i in stops:
            state = current.checkpoint()
            current.add(np.array(documents[-1]), None, 1)
            current.finish()
            for path in two.iterdir():
                if f"{state['index']:05d}" in path.name:
                    with open(path, "ab") as stream:
                        stream.write(garbage)
            current = writer(two)
            current.resume(state)
        current.add(np.array(ids), None, 0)
    current.finish()
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {
        p.name: p.read_bytes() for p in two.iterdir()
    }


def test_ids_that_need_more_than_two_bytes() -> None:
    assert token_type(65_536) == "uint16"
    assert token_type(65_537) == "uint32"


def test_a_truncated_shard_is_found_when_opening(tmp_path) -> None:
    write(tmp_path, [[1, 2, 3], [4, 5]], masked=False, shard_tokens=100)
    tokens = tmp_path / "train-00000.tokens"
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"has 4 tokens.*manifest says 5.*Pack again"):
        PackedDataset(tmp_path)
    tokens.unlink()
    with pytest.raises(DataError, match="can't be mapped"):
        PackedDataset(tmp_path)


def test_what_is_no_packed_directory(tmp_path) -> None:
    with pytest.raises(NotFound, match="everloop data pack"):
        PackedDataset(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        PackedDataset(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match="has format 99"):
        PackedDataset(tmp_path)


def test_wrong_names_and_numbers(tmp_path) -> None:
    write(tmp_path, [[1]], masked=False, shard_tokens=100)
    with pytest.raises(InvalidRequest, match="one of train, validation"):
        PackedDataset(tmp_path, "test")
    with pytest.raises(IndexError):
        PackedDataset(tmp_path).document(1)

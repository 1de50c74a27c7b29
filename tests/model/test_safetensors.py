"""Header parser against lies, mapped tensors, and the reference implementation as the oracle."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from everloop.errors import DataError
from everloop.model.safetensors import DTYPES, load_tensors, read_header, save_tensors

GOOD: dict[str, Any] = {
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "U8", "shape": [3], "data_offsets": [16, 19]},
}
DATA = bytes(range(19))


def raw(header: bytes, data: bytes = DATA, *, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def encode(entries: object) -> bytes:
    return json.dumps(entries).encode()


def changed(**fields: object) -> bytes:
    return raw(encode({**GOOD, "a": {**GOOD["a"], **fields}}))


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def every_dtype() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tensors = {}
    for name, (torch_name, _) in DTYPES.items():
        dtype = getattr(torch, torch_name)
        tensors[name] = (torch.randn(5, 3) * 10).abs().to(dtype)
    tensors["scalar"] = torch.tensor(1.5)
    tensors["empty"] = torch.empty(4, 0)
    return tensors


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
        for a, b in ((left[name], right[name]) for name in left)
    )


def test_reference_library_reads_what_we_write(tmp_path: Path) -> None:
    tensors = every_dtype()
    save_tensors(tmp_path / "x.safetensors", tensors, {"format": "pt"})
    assert same(load_file(tmp_path / "x.safetensors"), tensors)
    with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_we_read_what_the_reference_library_writes(tmp_path: Path) -> None:
    tensors = every_dtype()
    save_file(tensors, tmp_path / "x.safetensors", {"format": "pt", "b": "2"})
    assert same(load_tensors(tmp_path / "x.safetensors"), tensors)
    assert read_header(tmp_path / "x.safetensors").metadata == {"format": "pt", "b": "2"}


def test_equal_tensors_give_equal_bytes(tmp_path: Path) -> None:
    tensors = every_dtype()
    save_tensors(tmp_path / "x", tensors, {"a": "1", "b": "2"})
    again = {name: tensors[name] for name in reversed(tensors)}
    save_tensors(tmp_path / "y", again, {"b": "2", "a": "1"})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    save_tensors(tmp_path / "z", load_tensors(tmp_path / "x"), {"a": "1", "b": "2"})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "z").read_bytes()


def test_views_are_written_by_value(tmp_path: Path) -> None:
    wide = torch.arange(12.0).reshape(3, 4)
    save_tensors(tmp_path / "x", {"transposed": wide.T, "column": wide[:, 1]})
    loaded = load_tensors(tmp_path / "x")
    assert torch.equal(loaded["transposed"], wide.T)
    assert torch.equal(loaded["column"], wide[:, 1])


def test_writing_to_a_mapped_tensor_leaves_the_file_alone(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x", {"a": torch.ones(100)})
    before = (tmp_path / "x").read_bytes()
    tensor = load_tensors(tmp_path / "x")["a"]
    tensor.mul_(3)
    assert tensor.sum() == 300
    assert (tmp_path / "x").read_bytes() == before
    assert load_tensors(tmp_path / "x")["a"].sum() == 100


def test_unaligned_tensor_is_readable(tmp_path: Path) -> None:
    entries = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    header = encode(entries)
    header += b" " * (-len(header) % 8)
    path = write(tmp_path / "x", raw(header, b"\7" + struct.pack("<ff", 1.5, -2)))
    assert load_tensors(path)["b"].tolist() == [1.5, -2.0]
    assert load_tensors(path)["b"].data_ptr() % 4 == 0


def test_file_without_tensors(tmp_path: Path) -> None:
    assert load_tensors(write(tmp_path / "x", raw(b"{}", b""))) == {}


def test_header_is_ordered_by_position(tmp_path: Path) -> None:
    path = write(tmp_path / "x", raw(encode(dict(reversed(GOOD.items())))))
    assert list(read_header(path).tensors) == ["a", "b"]
    assert load_tensors(path)["b"].tolist() == [16, 17, 18]


LIES = {
    "empty file": b"",
    "shorter than the length field": b"\x10\0\0",
    "header longer than the file": raw(encode(GOOD), length=10_000),
    "header of 2^64-1 bytes": raw(encode(GOOD), length=2**64 - 1),
    "header of 2^63 bytes": raw(encode(GOOD), length=2**63),
    "header shorter than it is": raw(encode(GOOD), length=20),
    "no JSON": raw(b"hello wo"),
    "no UTF-8": raw(b'{"\xff":1}'),
    "JSON list": raw(b"[]", b""),
    "deep JSON": raw(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "huge number": raw(b'{"a":' + b"9" * 5000 + b"}"),
    "NaN": raw(b'{"__metadata__":{"a":NaN}}', b""),
    "key twice": raw(b'{"a":' + encode(GOOD["b"]) + b',"a":' + encode(GOOD["b"]) + b"}"),
    "field twice": raw(b'{"a":{"dtype":"U8","dtype":"U8","shape":[19],"data_offsets":[0,19]}}'),
    "lone surrogate in a name": raw(b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "metadata is a list": raw(encode({**GOOD, "__metadata__": []})),
    "metadata of numbers": raw(encode({**GOOD, "__metadata__": {"a": 1}})),
    "entry is a number": raw(encode({**GOOD, "a": 1})),
    "entry lacks shape": raw(encode({**GOOD, "a": {"dtype": "F32", "data_offsets": [0, 16]}})),
    "entry has more fields": changed(more=1),
    "endless name": raw(encode({"x" * 100_000: 1}), b""),
    "unknown dtype": changed(dtype="F33"),
    "dtype is a list": changed(dtype=["F32"]),
    "4-bit floats": changed(dtype="F4"),
    "negative size": changed(shape=[-2, -2]),
    "fractional size": changed(shape=[2.0, 2.0]),
    "boolean size": changed(shape=[True, 4]),
    "shape is a string": changed(shape="22"),
    "too many sizes": changed(shape=[1] * 65),
    "product overflows 64 bits": changed(shape=[2**32, 2**32, 4]),
    "empty, with strides over 64 bits": raw(
        encode({"a": {"dtype": "U8", "shape": [0, 2**40, 2**40], "data_offsets": [0, 0]}}), b""
    ),
    "shape needs fewer bytes": changed(shape=[2]),
    "shape needs more bytes": changed(shape=[2, 3]),
    "dtype needs more bytes": changed(dtype="F64"),
    "end before begin": changed(data_offsets=[16, 0]),
    "negative begin": changed(data_offsets=[-16, 0]),
    "three offsets": changed(data_offsets=[0, 16, 16]),
    "overlap": raw(encode({**GOOD, "b": {"dtype": "U8", "shape": [4], "data_offsets": [15, 19]}})),
    "two tensors on the same bytes": raw(encode({"a": GOOD["a"], "c": GOOD["a"]}), DATA[:16]),
    "hole": raw(encode({**GOOD, "b": {"dtype": "U8", "shape": [2], "data_offsets": [17, 19]}})),
    "hole before the first": raw(encode({"b": GOOD["b"]})),
    "beyond the end": raw(
        encode({**GOOD, "b": {"dtype": "U8", "shape": [2**40], "data_offsets": [16, 16 + 2**40]}})
    ),
    "data cut off": raw(encode(GOOD), DATA[:-1]),
    "data too long": raw(encode(GOOD), DATA + b"\0"),
}


@pytest.mark.parametrize("content", LIES.values(), ids=LIES.keys())
def test_lying_header_is_refused(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "bad.safetensors", content)
    with pytest.raises(DataError, match=r"bad\.safetensors: not a valid safetensors file") as info:
        load_tensors(path)
    assert info.value.repair
    assert len(str(info.value)) < 500  # a hostile name or number doesn't flood the terminal


def test_missing_file_names_itself(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.safetensors: can't be read"):
        load_tensors(tmp_path / "gone.safetensors")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = raw(encode(GOOD))
    for length in range(len(whole)):
        with pytest.raises(DataError):
            load_tensors(write(tmp_path / "x", whole[:length]))
    assert set(load_tensors(write(tmp_path / "x", whole))) == {"a", "b"}


def reads_or_says_why(path: Path) -> None:
    """The property under fuzz: tensors whose every element can be read, or a DataError."""
    with contextlib.suppress(DataError):
        for tensor in load_tensors(path).values():
            tensor.reshape(-1).view(torch.uint8).sum()


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], None]:
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    return lambda content: reads_or_says_why(write(path, content))


@given(st.binary(max_size=200))
def test_any_bytes(fuzzed: Callable[[bytes], None], content: bytes) -> None:
    fuzzed(content)


sizes = st.one_of(
    st.integers(0, 4), st.sampled_from([-1, 2**31, 2**32, 2**62, 2**63, 2**64]), st.floats()
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPES, "F4", "", "f32"]),
        "shape": st.lists(sizes, max_size=4),
        "data_offsets": st.lists(sizes, min_size=1, max_size=3),
    }
)
anything = st.recursive(
    st.none() | st.booleans() | sizes | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), entries | anything, max_size=4),
    st.binary(max_size=64),
    st.integers(-3, 3),
)
@example({"a": {"dtype": "U8", "shape": [0, 2**62], "data_offsets": [0, 0]}}, b"", 0)
def test_any_header(
    fuzzed: Callable[[bytes], None], header: dict[str, Any], data: bytes, off: int
) -> None:
    text = encode(header)
    fuzzed(raw(text, data, length=max(len(text) + off, 0)))


@given(st.data())
def test_any_damage_to_a_good_file(fuzzed: Callable[[bytes], None], data: st.DataObject) -> None:
    content = bytearray(raw(encode(GOOD)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    fuzzed(bytes(content))

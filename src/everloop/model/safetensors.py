"""Tensors in a safetensors file: a header parser that trusts nothing, memory-mapped tensors, and
a writer whose bytes depend on the tensors alone.

Layout (https://huggingface.co/docs/safetensors): 8 bytes, the header's length N, unsigned little
endian; N bytes of JSON, `{name: {"dtype", "shape", "data_offsets": [begin, end]}}`, padded with
spaces; then the tensors' bytes, without holes, to the end of the file.

Our own parser, because a model file comes from strangers: every number in the header is checked
against the file before one byte of a tensor is touched.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everloop.errors import DataError

if TYPE_CHECKING:
    import torch

# safetensors name -> (torch name, bytes an element). Sub-byte types are left out: torch can't
# view them.
DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
_MAX_DIMENSIONS = 64  # torch's own limit
_REPAIR = "Download the file again, or ask whoever made it for a correct one."


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """Where one tensor lies: `start` and `end` are byte positions in the file."""

    dtype: str  # a key of DTYPES
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A checked header: tensors in file order, and the free-form metadata."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Reads and checks the header of `path` (no tensor is read).

    Raises DataError, naming the file and the tensor, if the header is truncated or unreadable, or
    lies about types, shapes, positions or the file's size.
    """
    try:
        with path.open("rb") as file:
            return _parse(file.read(_LENGTH.size), file, os.fstat(file.fileno()).st_size, path)
    except OSError as error:
        raise DataError(f"can't be read: {error.strerror}.", path=str(path)) from error


def _parse(prefix: bytes, file: Any, size: int, path: Path) -> Header:
    def bad(what: str) -> DataError:
        return DataError(f"not a valid safetensors file: {what}.", path=str(path), repair=_REPAIR)

    if len(prefix) < _LENGTH.size:
        raise bad(f"it has {size} bytes, too few for a header")
    (length,) = _LENGTH.unpack(prefix)
    if length > _MAX_HEADER_BYTES:
        raise bad(f"its header claims {length} bytes, more than the {_MAX_HEADER_BYTES} allowed")
    data_start = _LENGTH.size + length
    if data_start > size:
        raise bad(f"its header claims {length} bytes, the whole file has {size}")
    text = file.read(length)
    if len(text) < length:
        raise bad("its header is cut off")
    try:
        entries = json.loads(
            text.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:  # covers JSON, UTF-8 and huge integers
        raise bad(f"its header is no JSON ({error})") from error
    if not isinstance(entries, dict):
        raise bad("its header is no JSON object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise bad("__metadata__ must map strings to strings")

    tensors = {}
    for name, entry in entries.items():
        try:
            tensors[name] = _tensor(entry, data_start)
        except ValueError as error:
            raise bad(f"tensor {name!a:.80} {error}") from error
    position = data_start
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)))
    for name, tensor in ordered.items():
        if tensor.start != position:
            problem = "overlaps the one before" if tensor.start < position else "follows a hole"
            raise bad(
                f"tensor {name!a:.80} {problem} (starts at {tensor.start}, expected {position})"
            )
        position = tensor.end
    if position != size:
        raise bad(f"its tensors end at byte {position}, the file has {size}")
    return Header(tensors=ordered, metadata=metadata)


def _tensor(entry: object, data_start: int) -> TensorInfo:
    """Checks one tensor by itself; ValueError says what is wrong with it."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError("must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"has dtype {dtype!a:.80}; known are {', '.join(DTYPES)}")
    if not _naturals(shape) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"has a shape that is no list of at most {_MAX_DIMENSIONS} sizes")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError("has data_offsets that are no [begin, end] pair")
    # Sizes of 0 count as 1 here: an empty tensor's other sizes still become 64-bit strides.
    if math.prod(max(size, 1) for size in shape) >= 2**62:
        raise ValueError("has an impossibly large shape")
    expected = math.prod(shape) * DTYPES[dtype][1]
    if offsets[1] - offsets[0] != expected:
        raise ValueError(
            f"needs {expected} bytes for {dtype} {shape} but has {offsets[1] - offsets[0]}"
        )
    return TensorInfo(
        dtype=dtype,
        shape=tuple(shape),
        start=data_start + offsets[0],
        end=data_start + offsets[1],
    )


def _naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    for name in result:
        name.encode("utf-8")  # a lone surrogate would fail later, wherever the name is printed
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of `path`, memory-mapped: pages are read on first use, shared with other
    processes, and copied when written to (the file never changes). Raises DataError as
    `read_header` does.
    """
    import torch

    header = read_header(path)
    if not any(tensor.end > tensor.start for tensor in header.tensors.values()):
        data = memoryview(b"")
    else:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    tensors = {}
    for name, info in header.tensors.items():
        torch_name, item_bytes = DTYPES[info.dtype]
        dtype = getattr(torch, torch_name)
        if info.end == info.start:
            tensors[name] = torch.empty(info.shape, dtype=dtype)
            continue
        raw = torch.frombuffer(data[info.start : info.end], dtype=torch.uint8)
        if raw.data_ptr() % item_bytes:  # allowed by the format; kernels want aligned memory
            raw = raw.clone()
        tensors[name] = raw.view(dtype).reshape(info.shape)
    return tensors


def save_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes `tensors` to `path`, synced to the disk. Equal tensors give equal bytes.

    The caller makes it atomic (write beside, rename). Raises OSError as the disk does.
    """
    import torch

    names = {getattr(torch, torch_name): name for name, (torch_name, _) in DTYPES.items()}
    # Widest elements first, then by name: everything is aligned, as the reference writer has it.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    entries: dict[str, Any] = {"__metadata__": dict(sorted((metadata or {}).items()))}
    position = 0
    for name, tensor in ordered:
        end = position + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(_LENGTH.pack(len(header)) + header)
        for _, tensor in ordered:
            flat = tensor.detach().to("cpu").contiguous().reshape(-1)
            if flat.numel():
                file.write(flat.view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())

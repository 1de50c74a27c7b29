"""The native library (`native/` in the repository) as Python sees it: found, checked, declared.

Everything here mirrors native/api.cpp. Without the library, or on a machine where it doesn't run,
the engine uses PyTorch and `why_missing` says why.
"""

from __future__ import annotations

import ctypes as c
import functools
import os
from pathlib import Path
from typing import Any

import numpy.typing as npt

PATH = Path(__file__).with_name("_native.so")

ISA_VARIABLE = "EVERLOOP_ISA"
"""Forces an instruction set: avx512bf16, avx512vnni, avx2 or portable."""

Pointer = c.c_void_p


class Array:
    """An argument that is a contiguous NumPy array; the call itself keeps it alive."""

    @classmethod
    def from_param(cls, array: npt.NDArray[Any]) -> c.c_void_p:
        return c.c_void_p(array.ctypes.data)


class Shape(c.Structure):
    """`everloop::Shape`."""

    _fields_ = (
        ("vocabulary", c.c_int32),
        ("hidden", c.c_int32),
        ("inner", c.c_int32),
        ("layers", c.c_int32),
        ("heads", c.c_int32),
        ("kv_heads", c.c_int32),
        ("head_dim", c.c_int32),
        ("qk_norm", c.c_int32),
        ("eps", c.c_float),
        ("kv_bits", c.c_int32),
    )


class Matrix(c.Structure):
    """`PlainMatrix`."""

    _fields_ = (
        ("bits", c.c_int32),
        ("outputs", c.c_int32),
        ("inputs", c.c_int32),
        ("data", Pointer),
        ("bias", Pointer),
    )


class Layer(c.Structure):
    """`PlainLayer`."""

    _fields_ = (
        ("qkv", Matrix),
        ("o", Matrix),
        ("gate_up", Matrix),
        ("down", Matrix),
        ("before", Pointer),
        ("after", Pointer),
        ("q_norm", Pointer),
        ("k_norm", Pointer),
        ("window", c.c_int32),
    )


class Exit(c.Structure):
    """`everloop::Exit`."""

    _fields_ = (("layer", c.c_int32), ("start", c.c_int32), ("threshold", c.c_float))


class Rules(c.Structure):
    """`everloop::Rules`."""

    _fields_ = (
        ("temperature", c.c_float),
        ("top_p", c.c_float),
        ("min_p", c.c_float),
        ("presence_penalty", c.c_float),
        ("frequency_penalty", c.c_float),
        ("repetition_penalty", c.c_float),
        ("top_k", c.c_int32),
        ("seed", c.c_uint64),
    )


_INT = c.c_int32
_MODEL = _SAMPLER = Pointer
_FUNCTIONS: dict[str, tuple[object, list[object]]] = {
    "model_new": (_MODEL, [c.POINTER(Shape), c.c_char_p, _INT, _INT, _INT]),
    "model_free": (None, [_MODEL]),
    "model_layer": (None, [_MODEL, _INT, c.POINTER(Layer)]),
    "model_ends": (None, [_MODEL, c.POINTER(Matrix), c.POINTER(Matrix), Array, Array]),
    "model_gate": (None, [_MODEL, _INT, _INT, Array, Array, Array]),
    "exits": (_INT, [_MODEL, Pointer, _INT]),
    "left": (_INT, [_MODEL, _INT, Array]),
    "forward": (_INT, [_MODEL, Array, _INT, Array, Array, Array]),
    "hidden": (None, [_MODEL, Array, _INT, Array]),
    "logits": (None, [_MODEL, Array, _INT, Array]),
    "verify": (_INT, [_MODEL, _SAMPLER, Array, Array, _INT, Array]),
    "write": (
        _INT,
        [
            *(_MODEL, Array, _INT, Array, Array, Array, Array, Array),
            *(Array, Array, Array, _INT, Array, Array, Array, Array, Array, Array, c.POINTER(_INT)),
        ],
    ),
    "logprobs": (_INT, [_MODEL, Array, _INT, Array, _INT, Array, Array, Array]),
    "clear": (None, [_MODEL, Array, _INT]),
    "packed_bytes": (c.c_size_t, [_INT, _INT, _INT]),
    "pack": (
        c.c_int64,
        [_INT, Array, _INT, _INT, _INT, _INT, _INT, Array, c.c_void_p, c.c_void_p],
    ),
    "respond": (None, [Array, _INT, c.c_double, Array]),
    "pack_bias": (None, [Array, _INT, _INT, Array]),
    "sampler_new": (_SAMPLER, [c.POINTER(Rules), Array, _INT, Array, Array, _INT]),
    "sampler_free": (None, [_SAMPLER]),
}


class Library:
    """The loaded library; functions without their prefix."""

    def __init__(self, handle: c.CDLL, isa: str) -> None:
        self.isa = isa
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(handle, f"everloop_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class Missing(Exception):
    """There is no native library that runs here; the text says why and what to do."""


@functools.cache
def load(isa: str | None = None) -> Library:
    """The library, with the best instruction set of this machine or the one asked for (`isa`,
    or the environment's EVERLOOP_ISA). Raises Missing."""
    if not PATH.exists():
        raise Missing(
            "the native library is not built: install a C++ compiler (Debian: apt install g++) "
            "and run `python native/build.py`, or reinstall the package"
        )
    try:
        handle = c.CDLL(str(PATH))
        wanted = isa or os.environ.get(ISA_VARIABLE) or ""
        function = handle.everloop_isa
        function.restype, function.argtypes = c.c_char_p, [c.c_char_p]
        found = function(wanted.encode())
        if found is None:
            raise Missing(
                f"{ISA_VARIABLE}={wanted} is not among what this machine runs "
                "(avx512bf16, avx512vnni, avx2, portable)"
            )
        return Library(handle, found.decode())
    except (OSError, AttributeError) as error:
        raise Missing(f"the native library can't be loaded ({error}): run `make clean`") from None

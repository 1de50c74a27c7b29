"""Single matrix products of the native library, as native/matmul_api.cpp offers them.

The engine computes whole steps in C++ and never comes here: this is how the kernels are tested and
measured one by one, on any instruction set.
"""

from __future__ import annotations

import ctypes as c
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.engine.native import library
from everloop.engine.native.compensating import Directions

Floats = npt.NDArray[np.float32]

PANEL = 64  # outputs
GROUP = 32  # inputs
STORES = ("write", "add", "gate")

_INT, _ARRAY = c.c_int32, library.Array
_ARGUMENTS: dict[str, list[object]] = {
    "unpack_row": [_INT, _ARRAY, _INT, _INT, _INT, _ARRAY],
    "quantize_rows": [c.c_char_p, _ARRAY, _INT, _INT, _ARRAY, _ARRAY, _ARRAY],
    "multiply": [
        *(c.c_char_p, _INT, _INT, _INT, _ARRAY, _INT, _INT, c.c_void_p),
        *(_ARRAY, _ARRAY, _ARRAY, _INT, _INT, _INT, _ARRAY, c.c_size_t, _INT),
    ],
}


@functools.cache
def _function(name: str) -> Any:
    function = getattr(c.CDLL(str(library.PATH)), f"everloop_{name}")
    function.restype, function.argtypes = None, _ARGUMENTS[name]
    return function


@dataclass(kw_only=True, frozen=True, slots=True)
class Weights:
    """A packed matrix: see native/matrix.h for the layout of `data` (bytes)."""

    bits: int
    outputs: int
    inputs: int
    gate: bool
    data: npt.NDArray[np.uint8]
    bias: Floats | None
    copies: int = 1

    @property
    def panels(self) -> int:
        return -(-self.outputs // PANEL)

    def row(self, n: int) -> Floats:
        """The weights of packed output n, (inputs,)."""
        out = np.empty(self.inputs, np.float32)
        _function("unpack_row")(self.bits, self.data, self.outputs, self.inputs, n, out)
        return out


@dataclass(kw_only=True, frozen=True, slots=True)
class Quantized:
    """Rows in 8 bits: q (rows, padded inputs) int8, scale (rows,), sums (rows, groups) int32."""

    q: npt.NDArray[np.int8]
    scale: Floats
    sums: npt.NDArray[np.int32]


def aligned(size: int) -> npt.NDArray[np.uint8]:
    """`size` bytes on a cache line's border."""
    spacious = np.zeros(size + 64, np.uint8)
    begin = -spacious.ctypes.data % 64
    return spacious[begin : begin + size]


def pack(
    weight: Floats,
    bias: Floats | None = None,
    *,
    bits: int,
    gate: bool = False,
    directions: Directions | None = None,
) -> Weights:
    """Quantizes (outputs, inputs) float32 weights; with `gate`, the first half are gates and the
    second ups. Errors are made up for along `directions`. ValueError names a weight that is NaN,
    infinite or too large."""
    native: Any = library.load()
    outputs, inputs = weight.shape
    weight = np.ascontiguousarray(weight, np.float32)
    data = aligned(native.packed_bytes(bits, outputs, inputs))
    panels = -(-outputs // PANEL)
    way = directions or Directions()
    shape = (bits, weight, outputs, inputs, gate)
    bad = native.pack(*shape, 0, panels, data, way.components, way.responses)
    if bad >= 0:
        raise ValueError(f"weight {bad} is {weight.flat[bad]}")
    packed_bias = None
    if bias is not None:
        packed_bias = np.empty(panels * PANEL, np.float32)
        native.pack_bias(np.ascontiguousarray(bias, np.float32), outputs, gate, packed_bias)
    return Weights(
        bits=bits, outputs=outputs, inputs=inputs, gate=gate, data=data, bias=packed_bias
    )


def quantize(isa: str, x: Floats) -> Quantized:
    """Rows (rows, inputs) of floats for a product."""
    library.load(isa)
    rows, inputs = x.shape
    groups = -(-inputs // GROUP)
    q = np.empty((rows, groups * GROUP), np.int8)
    scale, sums = np.empty(rows, np.float32), np.empty((rows, groups), np.int32)
    x = np.ascontiguousarray(x, np.float32)
    _function("quantize_rows")(isa.encode(), x, rows, inputs, q, scale, sums)
    return Quantized(q=q, scale=scale, sums=sums)


def multiply(
    isa: str,
    weights: Weights,
    x: Quantized,
    out: Floats,
    *,
    store: str = "write",
    panels: tuple[int, int] | None = None,
    times: int = 1,
) -> Floats:
    """Panels [first, last) of the product, all by default, into `out`, whose rows may be longer
    than the product's. Returns `out`. `times` repeats it, with the copies of the weights in turn if
    `data` holds several, for measurements."""
    library.load(isa)
    first, last = panels or (0, weights.panels)
    _function("multiply")(
        isa.encode(),
        times,
        weights.copies,
        weights.bits,
        weights.data,
        weights.outputs,
        weights.inputs,
        None if weights.bias is None else weights.bias.ctypes.data,
        x.q,
        x.scale,
        x.sums,
        len(x.q),
        first,
        last,
        out,
        out.strides[0] // 4,
        STORES.index(store),
    )
    return out

"""The matrix kernels against integers in NumPy, on every instruction set that this machine runs.

Products are exact to the last bit, not merely close: sums are integers, and the few float
operations that follow have one order everywhere. Only SiLU is held to a tolerance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from everloop.engine.native import library, products
from everloop.engine.native.products import GROUP, PANEL, Floats, Quantized, Weights

ISAS = ("avx512bf16", "avx512vnni", "avx2", "portable")
INFINITY, NAN = np.float32(np.inf), np.float32(np.nan)
SENTINEL = np.float32(-77.0)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    try:
        library.load(request.param)
    except library.Missing as missing:
        if not library.PATH.exists():
            raise
        pytest.skip(str(missing))
    return str(request.param)


def random(seed: int, *shape: int) -> Floats:
    """Normal numbers, some rows of them far larger or smaller."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape, dtype=np.float32)
    return x * (10.0 ** rng.integers(-2, 3, shape[:1] + (1,) * (len(shape) - 1))).astype(np.float32)


def decode(w: Weights) -> tuple[npt.NDArray[np.int64], Floats]:
    """The integers (outputs, padded inputs) and scales (outputs, 1 or groups) that native/matrix.h
    says are in the bytes."""
    padded = -(-w.inputs // GROUP) * GROUP
    if w.bits == 8:
        panels = w.data.reshape(w.panels, -1)
        scale = panels[:, : 4 * PANEL].copy().view(np.float32).reshape(-1, 1)
        q = panels[:, 4 * PANEL :].reshape(w.panels, padded // 4, PANEL, 4)
        return q.transpose(0, 2, 1, 3).reshape(-1, padded).astype(np.int64) - 128, scale
    groups = w.data.reshape(w.panels, padded // GROUP, -1)
    scale = groups[:, :, : 2 * PANEL].copy().view(np.float16).astype(np.float32)
    pairs = groups[:, :, 2 * PANEL :].reshape(w.panels, -1, GROUP // 8, PANEL, 4)
    q = np.stack([pairs & 15, pairs >> 4], axis=-2)  # panel, group, eight, output, half, input
    q = q.transpose(0, 3, 1, 2, 4, 5).reshape(-1, padded)
    return q.astype(np.int64) - 8, scale.transpose(0, 2, 1).reshape(-1, padded // GROUP)


def reference(w: Weights, x: Quantized) -> Floats:
    """The product with integers of any size and one float operation after the other."""
    q, scale = decode(w)
    with np.errstate(all="ignore"):
        if w.bits == 8:
            y = (x.q.astype(np.int64) @ q.T).astype(np.float32) * scale.T
        else:
            y = np.zeros((len(x.q), len(q)), np.float32)
            for g in range(scale.shape[1]):
                part = slice(g * GROUP, (g + 1) * GROUP)
                product = x.q[:, part].astype(np.int64) @ q[:, part].T
                y = y + product.astype(np.float32) * scale[:, g]
        y = y * x.scale[:, None]
        return y if w.bias is None else y + w.bias


def product(isa: str, w: Weights, x: Quantized, **options: Any) -> Floats:
    """(rows, outputs), in a buffer that is wider; nothing else in it may change."""
    width = w.outputs // 2 if options.get("store") == "gate" else w.outputs
    out = np.full((len(x.q) + 1, width + 5), SENTINEL)
    products.multiply(isa, w, x, out, **options)
    assert (out[:, width:] == SENTINEL).all()
    assert (out[-1] == SENTINEL).all()
    return out[:-1, :width]


def same(a: Floats, b: Floats) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


shapes = {
    "bits": st.sampled_from([8, 4]),
    "outputs": st.integers(1, 200),
    "inputs": st.integers(1, 300),
    "rows": st.integers(1, 70),
    "biased": st.booleans(),
    "seed": st.integers(0, 2**32),
}


@settings(max_examples=60)
@given(**shapes)
@example(bits=8, outputs=64, inputs=32, rows=1, biased=False, seed=0)
@example(bits=4, outputs=1, inputs=1, rows=1, biased=True, seed=0)
@example(bits=8, outputs=129, inputs=1000, rows=200, biased=True, seed=1)  # more than one chunk
@example(bits=4, outputs=65, inputs=1000, rows=200, biased=False, seed=2)
def test_products_are_exact_on_every_instruction_set(
    bits: int, outputs: int, inputs: int, rows: int, biased: bool, seed: int
) -> None:
    bias = random(seed + 1, outputs) if biased else None
    w = products.pack(random(seed, outputs, inputs), bias, bits=bits)
    for isa in ISAS:
        try:
            x = products.quantize(isa, random(seed + 2, rows, inputs))
        except library.Missing:
            continue
        assert same(product(isa, w, x), reference(w, x)[:, :outputs]), isa


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("store", ["write", "gate"])
def test_a_row_has_the_same_bits_alone_and_among_others(isa: str, bits: int, store: str) -> None:
    w = products.pack(random(0, 198, 96), random(1, 198), bits=bits, gate=store == "gate")
    x = random(2, 50, 96)
    alone = np.concatenate(
        [product(isa, w, products.quantize(isa, x[i : i + 1]), store=store) for i in range(len(x))]
    )
    for rows in range(1, 51):
        for begin in {0, 50 - rows}:
            some = products.quantize(isa, x[begin : begin + rows])
            assert same(product(isa, w, some, store=store), alone[begin : begin + rows])


@pytest.mark.parametrize("bits", [8, 4])
def test_panels_can_be_shared_out(isa: str, bits: int) -> None:
    w = products.pack(random(0, 300, 70), bits=bits)
    x = products.quantize(isa, random(1, 9, 70))
    whole, out = product(isa, w, x), np.full((9, 300), SENTINEL)
    products.multiply(isa, w, x, out, panels=(1, 3))
    assert same(out[:, 64:192], whole[:, 64:192])
    assert (out[:, :64] == SENTINEL).all()
    assert (out[:, 192:] == SENTINEL).all()
    for panels in ((0, 1), (3, 5)):
        products.multiply(isa, w, x, out, panels=panels)
    assert same(out, whole)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_integers_do_not_overflow(isa: str, bits: int, sign: int) -> None:
    for inputs in (32, 4096, 65536):
        weight = np.full((3, inputs), sign, np.float32)
        weight[1] *= -1
        weight[2, ::2] *= -1
        w = products.pack(weight, bits=bits)
        rows = np.ones((7, inputs), np.float32)
        rows[1::2] *= -1
        x = products.quantize(isa, rows)
        assert abs(x.q.astype(int)).min() == 127
        assert same(product(isa, w, x), reference(w, x)[:, :3])


def test_more_inputs_than_an_integer_holds_are_refused() -> None:
    native: Any = library.load()
    assert native.packed_bytes(8, 1, 65536) > 0
    assert native.packed_bytes(8, 1, 65537) == 0
    assert native.packed_bytes(5, 1, 64) == native.packed_bytes(8, 0, 64) == 0


@pytest.mark.parametrize("bits", [8, 4])
def test_zeros_give_the_bias(isa: str, bits: int) -> None:
    bias = random(0, 40)
    weight = random(1, 40, 100)
    weight[7] = 0
    x = random(2, 5, 100)
    x[3] = 0
    out = product(isa, products.pack(weight, bias, bits=bits), products.quantize(isa, x))
    assert (out[:, 7] == bias[7]).all()
    assert same(out[3], bias)


@pytest.mark.parametrize("magnitude", [1e-42, 1e-29, 1e-20, 1e20, 1e28])
def test_scales_may_be_of_any_size(isa: str, magnitude: float) -> None:
    weight = (np.linspace(-1, 1, 64 * 40).reshape(64, 40) * magnitude).astype(np.float32)
    w = products.pack(weight, bits=8)
    x = products.quantize(isa, (random(0, 6, 40) / max(magnitude, 1e-30)).astype(np.float32))
    out = product(isa, w, x)
    assert np.isfinite(out).all()
    assert out.any() == (magnitude > 1e-30)
    assert same(out, reference(w, x))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("bad", [NAN, INFINITY, -INFINITY])
def test_weights_that_are_no_numbers_are_refused(bits: int, bad: np.float32) -> None:
    for at in (0, 77, 33 * 41 - 1):
        weight = random(0, 33, 41)
        weight.flat[at] = bad
        with pytest.raises(ValueError, match=rf"weight {at} is -?(nan|inf)"):
            products.pack(weight, bits=bits)
        weight = weight[:32]  # the second half are ups: the index is still the caller's
        if at < weight.size:
            with pytest.raises(ValueError, match=f"weight {at} "):
                products.pack(weight, bits=bits, gate=True)


def test_four_bits_refuse_what_float16_scales_cannot_hold() -> None:
    weight = random(0, 2, 32)
    weight[1, 3] = 2e5
    products.pack(weight, bits=4)
    weight[1, 3] = -3e5
    with pytest.raises(ValueError, match="weight 35 is -300000"):
        products.pack(weight, bits=4)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("bad", [NAN, INFINITY, -INFINITY])
def test_a_row_that_is_no_number_is_nan_and_no_other_row(
    isa: str, bits: int, bad: np.float32
) -> None:
    x = random(0, 11, 45)
    good = products.quantize(isa, x)
    x[4, 44] = bad
    broken = products.quantize(isa, x)
    for store, outputs in (("write", 70), ("gate", 140)):
        w = products.pack(random(1, outputs, 45), bits=bits, gate=store == "gate")
        want = product(isa, w, good, store=store).copy()
        want[4] = NAN
        got = product(isa, w, broken, store=store)
        assert np.array_equal(got, want, equal_nan=True)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("outputs", [64, 100, 1])
def test_adding_adds_the_written_product(isa: str, bits: int, outputs: int) -> None:
    w = products.pack(random(0, outputs, 64), random(1, outputs), bits=bits)
    x = products.quantize(isa, random(2, 8, 64))
    before = random(3, 8, outputs)
    out = before.copy()
    products.multiply(isa, w, x, out, store="add")
    assert same(out, before + reference(w, x)[:, :outputs])


def silu(x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    x = x.astype(np.float64)
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-x))


@settings(max_examples=25)
@given(
    bits=st.sampled_from([8, 4]),
    half=st.integers(1, 120),
    inputs=st.integers(1, 100),
    rows=st.integers(1, 20),
    seed=st.integers(0, 2**32),
)
def test_gates_are_silu_times_up(bits: int, half: int, inputs: int, rows: int, seed: int) -> None:
    weight, bias = random(seed, 2 * half, inputs), random(seed + 1, 2 * half)
    gated = products.pack(weight, bias, bits=bits, gate=True)
    gate = products.pack(weight[:half], bias[:half], bits=bits)
    up = products.pack(weight[half:], bias[half:], bits=bits)
    for isa in ISAS:
        try:
            x = products.quantize(isa, random(seed + 2, rows, inputs))
        except library.Missing:
            continue
        want = silu(product(isa, gate, x)) * product(isa, up, x)
        got = product(isa, gated, x, store="gate")
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-30)


def test_gates_of_any_size_are_numbers(isa: str) -> None:
    values = [*np.linspace(-120, 120, 1001), 0.0, 1e-30, *10.0 ** np.arange(3, 37)]
    gate = np.float32([values, np.negative(values)]).reshape(-1, 1)
    x = products.quantize(isa, np.ones((1, 1), np.float32))
    w = products.pack(np.concatenate([gate, np.ones_like(gate)]), bits=8, gate=True)
    got = product(isa, w, x, store="gate")
    assert np.isfinite(got).all()
    plain = product(isa, products.pack(gate, bits=8), x)
    np.testing.assert_allclose(got, silu(plain), rtol=1e-6, atol=1e-36)


def test_rows_are_rounded_to_the_nearest(isa: str) -> None:
    x = random(0, 40, 77)
    x[3] *= 1e-28
    x[4] *= 1e-31  # zero
    x[5] *= 1e-44
    x[6] *= 3e37 / abs(x[6]).max() * 10
    x[7] = np.arange(77) % 127 + 0.5  # ties
    x[7, 0] = 127
    got = products.quantize(isa, x)
    most = abs(x).max(1, keepdims=True)
    most[most < 1e-30] = 0
    with np.errstate(divide="ignore"):
        inverse = np.where(most > 0, np.float32(127) / most, np.float32(0))
    assert same(got.scale, (most / np.float32(127))[:, 0])
    assert np.array_equal(got.q[:, :77], np.rint(x * inverse))
    assert (got.q[:, 77:] == 0).all()
    assert np.array_equal(got.sums, got.q.reshape(40, -1, GROUP).sum(2, dtype=np.int32))


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("bits", [8, 4])
def test_packed_weights_are_near_and_padding_is_zero(bits: int, gate: bool) -> None:
    weight = random(0, 150, 70)
    w = products.pack(weight, bits=bits, gate=gate)
    q, scale = decode(w)
    got = (q * np.repeat(scale, q.shape[1] // scale.shape[1], axis=1)).astype(np.float32)
    order = np.full(w.panels * PANEL, -1)
    if gate:
        for i in range(75):
            order[i // 16 * 32 + i % 16] = i
            order[i // 16 * 32 + 16 + i % 16] = 75 + i
    else:
        order[:150] = np.arange(150)
    there = order >= 0
    assert (got[:, 70:] == 0).all()
    assert (got[~there] == 0).all()
    largest = abs(weight[order[there]]).max(1, keepdims=True)
    error = abs(got[there, :70] - weight[order[there]]) / largest
    assert error.max() <= (0.5001 / 127 if bits == 8 else 0.12)
    for n in range(w.panels * PANEL):
        assert same(w.row(n), got[n, :70])


def test_four_bits_err_less_than_the_largest_weight_as_the_scale() -> None:
    """llama.cpp's Q4_0 formula (its largest weight becomes -8) is the one to beat."""
    weight = np.random.default_rng(0).standard_normal((64, 1024), dtype=np.float32)
    w = products.pack(weight, bits=4)
    ours = np.stack([w.row(n) for n in range(64)])
    groups = weight.reshape(-1, GROUP)
    largest = np.take_along_axis(groups, abs(groups).argmax(1)[:, None], 1)
    inverse = np.float32(1) / (largest / np.float32(-8))
    q = np.clip(np.trunc(groups * inverse + np.float32(8.5)), 0, 15) - 8
    theirs = (q * (largest / -8).astype(np.float16)).reshape(weight.shape)
    assert ((ours - weight) ** 2).mean() < 0.9 * ((theirs - weight) ** 2).mean()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_matrix_can_be_packed_in_parts(bits: int) -> None:
    native: Any = library.load()
    weight = random(0, 300, 70)
    whole = products.pack(weight, bits=bits).data
    parts = products.aligned(whole.size)
    size = whole.size // 5
    for first, last in ((3, 5), (0, 1), (1, 3)):
        part = parts[first * size : last * size]
        assert native.pack(bits, weight, 300, 70, 0, first, last, part, None, None) == -1
    assert same(whole, parts)

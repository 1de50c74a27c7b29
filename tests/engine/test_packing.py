"""What packing does to weights: it moves size between layers without changing the model, and rounds
so that errors cancel where the inputs lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from everloop.engine.native import library
from everloop.engine.native.calibration import LEAST, MOST, ids_for, record
from everloop.engine.native.compensating import COUNT, Directions, directions
from everloop.engine.native.equalizing import MOST as FURTHEST
from everloop.engine.native.equalizing import balance, equalize
from everloop.engine.native.packed import open_packed
from everloop.engine.native.products import Floats, Weights, pack
from everloop.errors import EverloopError
from everloop.model import checkpoint
from everloop.model.transformer import Transformer
from tests.model.layouts import LAYOUTS, sample_ids, saved


def loaded(layout: str, directory: Path) -> Transformer:
    saved(layout, directory)
    return checkpoint.load(directory)[1]


def channels(model: Transformer) -> None:
    """Makes some channels far larger than others, as trained models have them."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("layernorm.weight", "model.norm.weight")):
                p.mul_(torch.exp(1.5 * torch.randn(p.shape, generator=generator)))
            if name.endswith(("up_proj.weight", "v_proj.weight")):
                p.mul_(torch.exp(1.5 * torch.randn(len(p), 1, generator=generator)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_equalized_model_computes_the_same(layout: str, tmp_path: Path) -> None:
    model = loaded(layout, tmp_path)
    channels(model)
    ids = sample_ids(40)
    with torch.inference_mode():
        want = model(ids)
    folded = equalize(model, record(model, sample_ids(50)[0]))
    moved = {name: folded.apply(name, value) for name, value in model.state_dict().items()}
    changed = [name for name, value in model.state_dict().items() if not moved[name].equal(value)]
    assert any("down_proj" in name for name in changed)
    assert ("lm_head.weight" in changed) == (not model.config.tie_word_embeddings)
    assert "model.embed_tokens.weight" not in changed
    model.load_state_dict(moved)
    with torch.inference_mode():
        assert (model(ids) - want).abs().max() <= 1e-4 * want.abs().max()


def test_channels_come_closer_to_each_other(tmp_path: Path) -> None:
    model = loaded("qwen3", tmp_path)
    channels(model)
    ids = sample_ids(64)[0]
    before = record(model, ids)
    folded = equalize(model, before)
    model.load_state_dict({n: folded.apply(n, v) for n, v in model.state_dict().items()})
    after = record(model, ids)
    for name, x in after.items():
        spread = [t.pow(2).mean(0).log().std() for t in (before[name], x)]
        assert spread[1] < spread[0], name


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), exponent=st.integers(0, 30), empty=st.floats(0, 1))
def test_factors_are_numbers_within_limits(seed: int, exponent: int, empty: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x2, w2 = (
        torch.exp(exponent * torch.randn(37, generator=generator))
        * (torch.rand(37, generator=generator) >= empty)
        for _ in range(2)
    )
    s = balance(x2, w2)
    assert torch.isfinite(s).all()
    assert s.min() >= 1 / FURTHEST
    assert s.max() <= FURTHEST


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
def test_weights_beyond_use_are_left_as_they_are(bad: float, tmp_path: Path) -> None:
    model = loaded("llama", tmp_path)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[5, 7] = bad
        model.model.layers[2].self_attn.o_proj.weight[5, 7] = bad
    folded = equalize(model, record(model, sample_ids()[0]))
    names = {*folded.rows, *folded.columns}
    for left in ("1.mlp.down_proj", "1.mlp.up_proj", "2.self_attn.o_proj"):
        assert f"model.layers.{left}.weight" not in names
    for name, value in model.state_dict().items():
        moved = folded.apply(name, value)
        assert torch.isfinite(moved).equal(torch.isfinite(value)), name


def test_a_weight_that_is_no_number_is_named_when_packing(tmp_path: Path) -> None:
    model = saved("llama", tmp_path / "model")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[5, 7] = torch.nan
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(EverloopError, match=r"1\.mlp\.down_proj.*row 5, column 7"):
        open_packed(tmp_path / "model", None, bits=8, cache=tmp_path / "cache")


def test_without_a_tokenizer_the_ids_are_always_the_same(tmp_path: Path) -> None:
    model = loaded("llama", tmp_path)
    assert ids_for(tmp_path, model).equal(ids_for(tmp_path, model))
    assert LEAST <= len(ids_for(tmp_path, model)) <= min(MOST, model.config.max_position_embeddings)
    assert ids_for(tmp_path, model).max() < model.config.vocab_size


def test_inputs_of_nothing_have_no_directions() -> None:
    native = library.load()
    assert directions(native, torch.zeros(9, 40)).x is None
    assert directions(native, torch.full((9, 40), torch.nan)).x is None


def correlated(seed: int, tokens: int, inputs: int) -> Tensor:
    """Inputs of which most lie in a few directions, one of them their mean."""
    g = torch.Generator().manual_seed(seed)
    few = torch.randn(tokens, 3, generator=g) @ torch.randn(3, inputs, generator=g)
    mean = torch.randn(inputs, generator=g)
    return few + 2 * mean + 0.2 * torch.randn(tokens, inputs, generator=g)


def rows(w: Weights) -> Floats:
    return np.stack([w.row(n) for n in range(w.outputs)])


def plainly(weight: Floats, scale: Floats, low: int, high: int, way: Directions) -> Floats:
    """native/compensate.h once more: one input after the other, in the same order of additions.
    `scale` (outputs, inputs)."""
    assert way.x is not None
    assert way.y is not None
    error = np.zeros((COUNT, len(weight)), np.float32)
    out = np.empty_like(weight)
    for k in range(weight.shape[1]):
        shift = np.zeros(len(weight), np.float32)
        for d in range(COUNT):
            shift += error[d] * way.y[k, d]
        inverse = np.float32(1) / scale[:, k]
        q = np.rint(np.clip((weight[:, k] - shift) * inverse, low, high))
        out[:, k] = q * scale[:, k]
        for d in range(COUNT):
            error[d] += (out[:, k] - weight[:, k]) * way.x[k, d]
    return out


@settings(max_examples=25, deadline=None)
@given(
    bits=st.sampled_from([8, 4]),
    outputs=st.integers(1, 90),
    inputs=st.integers(1, 200),
    seed=st.integers(0, 2**32),
)
def test_rounding_makes_up_for_errors(bits: int, outputs: int, inputs: int, seed: int) -> None:
    x = correlated(seed, 40, inputs)
    way = directions(library.load(), x)
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)).numpy()
    packed, plain = (rows(pack(weight, bits=bits, directions=d)) for d in (way, None))
    if bits == 8:
        scale = np.abs(weight).max(1, keepdims=True) / np.float32(127)
        scale = np.repeat(scale, inputs, 1)
    else:
        scale = scales_of(pack(weight, bits=4), inputs)
    assert np.array_equal(packed, plainly(weight, scale, *LIMITS[bits], way))
    if inputs >= 64:
        lost = [((p - weight) @ x.numpy().T).std() for p in (packed, plain)]
        assert lost[0] < lost[1]


LIMITS = {8: (-127, 127), 4: (-8, 7)}


def scales_of(w: Weights, inputs: int) -> Floats:
    """(outputs, inputs) of 4-bit weights, from the packed bytes."""
    groups = w.data.reshape(w.panels, -(-inputs // 32), -1)[:, :, :128].copy()
    scale = groups.view(np.float16).astype(np.float32)  # panel, group, output
    scale = scale.transpose(0, 2, 1).reshape(w.panels * 64, -1)[: w.outputs]
    return np.repeat(scale, 32, 1)[:, :inputs]

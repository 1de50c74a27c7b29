"""config.json from strangers: a ModelConfig, or an error that names the field."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from everloop.errors import InvalidRequest
from everloop.model.config import ModelConfig
from everloop.model.transformer import Transformer
from tests.model.layouts import LAYOUTS, SIZES

GOOD: dict[str, Any] = {
    **{k: v for k, v in SIZES.items() if k != "attn_implementation"},
    "architectures": ["Qwen3ForCausalLM"],
    "head_dim": 16,
    "rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0,
                        "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 32},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_json_and_back_is_the_same_config(layout: str) -> None:
    config = ModelConfig.from_json(LAYOUTS[layout]().to_dict() | {"architectures": None})
    again = ModelConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert again == config
    assert again.to_json() == config.to_json()


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("architectures", ["GPT2LMHeadModel"], "architecture"),
        ("architectures", [["Qwen3ForCausalLM"]], "architecture"),
        ("hidden_act", "gelu", ""),
        ("hidden_size", "64", ""),
        ("hidden_size", -1, ""),
        ("hidden_size", True, ""),
        ("num_hidden_layers", 2**30, ""),
        ("vocab_size", None, ""),
        ("head_dim", 15, ""),
        ("num_key_value_heads", 3, ""),
        ("rms_norm_eps", float("nan"), ""),
        ("rms_norm_eps", "small", ""),
        ("rope_parameters", [1], "rope_"),
        ("rope_parameters", {"rope_type": "yarn"}, "rope_"),
        ("rope_parameters", {"rope_type": "llama3", "factor": 8.0}, "low_freq_factor"),
        ("bos_token_id", "1", ""),
        ("eos_token_id", [1, None], ""),
    ],
)
def test_bad_field_is_named(field: str, value: object, named: str) -> None:
    ModelConfig.from_json(GOOD)
    with pytest.raises(InvalidRequest, match=named or field) as info:
        ModelConfig.from_json({**GOOD, field: value})
    assert info.value.status == 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from([*GOOD, "layer_types", "sliding_window", "use_sliding_window"]),
        json_values,
        max_size=3,
    ),
    st.dictionaries(st.sampled_from([*GOOD["rope_parameters"]]), json_values, max_size=2),
)
def test_any_config(fields: dict[str, Any], rope: dict[str, Any]) -> None:
    value = {**GOOD, "rope_parameters": {**GOOD["rope_parameters"], **rope}, **fields}
    with contextlib.suppress(InvalidRequest):
        ModelConfig.from_json(value).to_json()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1', "\0", "null"])
def test_broken_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InvalidRequest, match=r"config\.json"):
        ModelConfig.load(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parameter_count(layout: str) -> None:
    config = ModelConfig.from_json(LAYOUTS[layout]().to_dict() | {"architectures": None})
    model = Transformer(config)
    assert config.parameters == sum(p.numel() for p in model.parameters())


def test_casting_keeps_rotary_frequencies_exact() -> None:
    model = Transformer(ModelConfig.from_json(GOOD))
    before = model.frequencies.clone()
    model.to(torch.bfloat16)
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(model.frequencies, before)

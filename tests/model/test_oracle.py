"""Our Transformer against transformers, in fp32, on random weights of every layout."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from everloop.model.checkpoint import load, save
from everloop.model.config import ModelConfig
from everloop.model.transformer import Transformer
from tests.model.layouts import (
    LAYOUTS,
    furthest,
    oracle,
    oracle_logits,
    our_cached_logits,
    our_logits,
    sample_ids,
    saved,
)

TOLERANCE = 1e-4
STEPS = [13, 6, *[1] * 21]  # a prompt, a second chunk, then token by token


@pytest.mark.parametrize("layout", LAYOUTS)
def test_prompt_and_cached_decoding(layout: str, tmp_path: Path) -> None:
    theirs = saved(layout, tmp_path / "hf")
    _, ours = load(tmp_path / "hf")
    ids = sample_ids()
    expected = oracle_logits(theirs, ids)
    assert expected.std() > 0.5  # logits worth comparing
    assert furthest(our_logits(ours, ids), expected) <= TOLERANCE
    assert furthest(our_cached_logits(ours, ids, STEPS), expected) <= TOLERANCE

    cache, pieces = None, []
    with torch.inference_mode():
        for piece in ids.split(STEPS, 1):
            out = theirs(input_ids=piece, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            pieces.append(out.logits)
    cached = torch.cat(pieces, dim=1)
    assert furthest(our_cached_logits(ours, ids, STEPS), cached) <= TOLERANCE


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_we_save_loads_in_transformers(layout: str, tmp_path: Path) -> None:
    theirs = saved(layout, tmp_path / "hf")
    config, model = load(tmp_path / "hf")
    save(tmp_path / "ours", model, config)
    ids = sample_ids()
    assert furthest(oracle_logits(oracle(tmp_path / "ours"), ids), oracle_logits(theirs, ids)) == 0


@pytest.mark.parametrize(
    ("layout", "without"),
    [
        ("llama3-rope", {"rope_scaling": None}),
        ("mistral-window", {"sliding_windows": ()}),
        ("qwen2-some-windows", {"sliding_windows": (8, 8, 8)}),
        ("qwen3", {"rms_norm_eps": 1e-2}),
    ],
)
def test_the_comparison_sees_each_switch(
    layout: str, without: dict[str, Any], tmp_path: Path
) -> None:
    theirs = saved(layout, tmp_path)
    config, model = load(tmp_path)
    other = Transformer(replace(config, **without))
    other.load_state_dict(model.state_dict())
    ids = sample_ids()
    assert furthest(our_logits(other, ids), oracle_logits(theirs, ids)) > 100 * TOLERANCE


@pytest.mark.parametrize("layout", ["llama", "llama3-rope", "mistral-window", "qwen2-tied"])
def test_configs_written_before_transformers_5(layout: str, tmp_path: Path) -> None:
    """rope_theta and rope_scaling at the top level, torch_dtype, no defaults spelled out."""
    theirs = saved(layout, tmp_path)
    path = tmp_path / "config.json"
    value = json.loads(path.read_text())
    rope = value.pop("rope_parameters")
    value.update(rope_theta=rope.pop("rope_theta"), torch_dtype=value.pop("dtype"))
    if rope["rope_type"] != "default":
        value["rope_scaling"] = rope
    for name in ("head_dim", "layer_types", "attention_bias", "mlp_bias", "hidden_act"):
        value.pop(name, None)
    path.write_text(json.dumps(value))
    _, ours = load(tmp_path)
    assert furthest(our_logits(ours, sample_ids()), oracle_logits(theirs, sample_ids())) <= 1e-4
    assert (
        furthest(oracle_logits(oracle(tmp_path), sample_ids()), our_logits(ours, sample_ids()))
        <= 1e-4
    )


MINIMAL = {
    "vocab_size": 50,
    "hidden_size": 256,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    "architecture",
    ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"],
)
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"attention_bias": True},
        {"attention_bias": False},
        {"use_sliding_window": True, "max_window_layers": 0},
        {"sliding_window": None},
    ],
)
def test_absent_fields_mean_what_transformers_means(
    architecture: str, extra: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import AutoModelForCausalLM

    model_type = architecture.removesuffix("ForCausalLM").lower()
    value = {"architectures": [architecture], "model_type": model_type, **MINIMAL, **extra}
    (tmp_path / "config.json").write_text(json.dumps(value))
    theirs = AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        expected = AutoModelForCausalLM.from_config(theirs).state_dict()
        config = ModelConfig.load(tmp_path)
        ours = Transformer(config).state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in expected.items()}
    assert config.rms_norm_eps == theirs.rms_norm_eps
    assert config.rope_theta == theirs.rope_parameters["rope_theta"]
    windows = [config.window(i) for i in range(config.num_hidden_layers)]
    kinds = getattr(theirs, "layer_types", None) or ["sliding_attention"] * 2
    width = getattr(theirs, "sliding_window", None)
    assert windows == [width if kind == "sliding_attention" else None for kind in kinds]


@pytest.mark.parametrize("layout", ["llama3-rope", "mistral-window", "qwen3"])
def test_packed_documents_do_not_see_each_other(layout: str, tmp_path: Path) -> None:
    """Training packs several documents into one row; each must score as it does alone."""
    theirs = saved(layout, tmp_path)
    _, ours = load(tmp_path)
    ids = sample_ids(batch=1)
    lengths = [1, 17, 22]
    documents = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    with torch.inference_mode():
        packed = ours(ids, positions_BT=positions, documents_BT=documents)
    alone = [oracle_logits(theirs, document) for document in ids.split(lengths, 1)]
    assert furthest(packed, torch.cat(alone, dim=1)) <= TOLERANCE

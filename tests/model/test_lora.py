"""LoRA against PEFT: the same files, the same logits, in both directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn

from everloop.errors import DataError, InvalidRequest
from everloop.model import checkpoint, lora
from everloop.model.lora import LoraConfig
from everloop.model.safetensors import load_tensors, save_tensors
from everloop.model.transformer import Transformer
from tests.model.layouts import furthest, oracle, oracle_logits, our_logits, sample_ids, saved

# peft asks transformers for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

LAYOUTS = ["qwen3", "qwen2-tied", "llama-biased-tied", "mistral-window"]
CONFIGS = [
    LoraConfig(rank=4, alpha=8),
    LoraConfig(rank=3, alpha=7.5, targets=("q_proj", "down_proj"), rank_stabilized=True),
]


def loaded(directory: Path) -> Transformer:
    return checkpoint.load(directory)[1]


def randomize(model: nn.Module) -> None:
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))


def adapter_weights(model: Transformer) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if "lora_" in name}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    saved("qwen3", tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", CONFIGS, ids=["all", "some"])
def test_peft_loads_ours(layout: str, config: LoraConfig, tmp_path: Path) -> None:
    saved(layout, tmp_path / "base")
    model = loaded(tmp_path / "base")
    plain = our_logits(model, sample_ids())
    lora.attach(model, config)
    assert torch.equal(our_logits(model, sample_ids()), plain)  # a fresh adapter changes nothing
    randomize(model)
    lora.save(tmp_path / "adapter", model)
    theirs = peft.PeftModel.from_pretrained(oracle(tmp_path / "base"), tmp_path / "adapter").eval()
    ours = our_logits(model, sample_ids())
    assert furthest(ours, oracle_logits(theirs, sample_ids())) <= 1e-4
    assert furthest(ours, plain) > 0.1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear", r".*\.(gate|o)_proj"])
def test_we_load_theirs(layout: str, targets: Any, tmp_path: Path) -> None:
    saved(layout, tmp_path / "base")
    config = peft.LoraConfig(
        r=5, lora_alpha=9, lora_dropout=0.1, target_modules=targets, task_type="CAUSAL_LM"
    )
    theirs = peft.get_peft_model(oracle(tmp_path / "base"), config)
    randomize(theirs)
    theirs.save_pretrained(tmp_path / "adapter")
    expected = oracle_logits(theirs.eval(), sample_ids())
    model = loaded(tmp_path / "base")
    found = lora.load(tmp_path / "adapter", model.eval())
    assert (found.rank, found.alpha, found.dropout) == (5, 9, 0.1)
    assert len(found.targets) == (7 if targets == "all-linear" else 2)
    assert furthest(our_logits(model, sample_ids()), expected) <= 1e-4
    _, merged = lora.load_merged(tmp_path / "adapter", tmp_path / "base")
    assert furthest(our_logits(merged, sample_ids()), expected) <= 1e-4
    checkpoint.save(tmp_path / "merged", merged, merged.config)
    assert furthest(oracle_logits(oracle(tmp_path / "merged"), sample_ids()), expected) <= 1e-4


def test_save_load_save_is_byte_identical(base: Path, tmp_path: Path) -> None:
    model = loaded(base)
    config = LoraConfig(rank=2, base="org/name")
    lora.attach(model, config)
    randomize(model)
    lora.save(tmp_path / "one", model)
    again = loaded(base)
    found = lora.load(tmp_path / "one", again)
    assert found == config
    resumed = lora.tensors(tmp_path / "one", model)  # what a training run resumes with
    for name, weight in adapter_weights(model).items():
        assert torch.equal(resumed[name], weight)
    lora.save(tmp_path / "two", again)
    for name in (lora.CONFIG_FILE, lora.WEIGHTS_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_training_moves_only_the_adapter(base: Path) -> None:
    model = loaded(base)
    lora.attach(model, LoraConfig(rank=4))
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == set(adapter_weights(model))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=10.0)
    for _ in range(2):  # B is zero at first, so A moves only from the second step on
        optimizer.zero_grad()
        model(sample_ids()).square().mean().backward()
        optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == trainable


def test_dropout_works_in_training_only(base: Path) -> None:
    model = loaded(base)
    lora.attach(model, LoraConfig(rank=4, dropout=0.5))
    randomize(model)
    ids = sample_ids()
    model.eval()
    assert torch.equal(our_logits(model, ids), our_logits(model, ids))
    model.train()
    torch.manual_seed(0)
    first = our_logits(model, ids)
    assert furthest(first, our_logits(model, ids)) > 1e-3


def test_bf16_base_keeps_a_fp32_adapter(base: Path) -> None:
    _, model = checkpoint.load(base, dtype=torch.bfloat16)
    lora.attach(model, LoraConfig(rank=4))
    randomize(model)
    assert {t.dtype for t in adapter_weights(model).values()} == {torch.float32}
    assert our_logits(model, sample_ids()).dtype == torch.bfloat16
    lora.merge(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_same_seed_same_adapter(base: Path) -> None:
    states = []
    for seed in (1, 1, 2):
        model = loaded(base)
        lora.attach(model, LoraConfig(rank=4), seed=seed)
        states.append(torch.cat([t.reshape(-1) for t in adapter_weights(model).values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_unmerged_model_is_no_checkpoint(base: Path, tmp_path: Path) -> None:
    model = loaded(base)
    with pytest.raises(InvalidRequest, match="no LoRA layers"):
        lora.save(tmp_path / "x", model)
    lora.attach(model, LoraConfig(rank=4))
    with pytest.raises(InvalidRequest, match="merge"):
        checkpoint.save(tmp_path / "x", model, model.config)
    with pytest.raises(InvalidRequest, match="already has an adapter"):
        lora.attach(model, LoraConfig(rank=4))
    lora.merge(model)
    checkpoint.save(tmp_path / "x", model, model.config)


@pytest.mark.parametrize(
    "fields", [{"rank": 0}, {"dropout": 1.0}, {"targets": ()}, {"targets": ("lm_head",)}]
)
def test_bad_settings(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(fields))):
        LoraConfig(**fields)


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    model = loaded(base)
    lora.attach(model, LoraConfig(rank=2))
    lora.save(tmp_path / "adapter", model)
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", "LOHA"),
        ("use_dora", True),
        ("modules_to_save", ["lm_head"]),
        ("rank_pattern", {"q_proj": 8}),
        ("bias", "all"),
        ("r", 0),
        ("r", "8"),
        ("lora_alpha", None),
        ("lora_alpha", float("nan")),
        ("lora_dropout", 2),
    ],
)
def test_unsupported_adapters_say_so(base: Path, adapter: Path, field: str, value: Any) -> None:
    lora.load(adapter, loaded(base))
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(DataError, match=rf"adapter_config\.json: {field}"):
        lora.load(adapter, loaded(base))


def test_adapter_of_another_model(adapter: Path, tmp_path: Path) -> None:
    saved("llama-no-groups", tmp_path / "other")
    with pytest.raises(DataError, match="Load it on the model that it was trained on"):
        lora.load(adapter, loaded(tmp_path / "other"))


@pytest.mark.parametrize("change", ["drop", "foreign", "rank"])
def test_adapter_with_wrong_tensors(base: Path, adapter: Path, change: str) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = {k: v.clone() for k, v in load_tensors(path).items()}
    name = next(iter(tensors))
    if change == "drop":
        del tensors[name]
    elif change == "foreign":
        tensors["base_model.model.lm_head.lora_A.weight"] = torch.ones(2, 64)
    else:
        tensors[name] = torch.ones(3, 64)
    save_tensors(path, tensors)
    with pytest.raises(DataError, match="tensor 'base_model"):
        lora.load(adapter, loaded(base))


def test_pickled_adapter(base: Path, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(DataError, match=r"adapter_model\.bin is a pickle"):
        lora.load(adapter, loaded(base))

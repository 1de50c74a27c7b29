"""What `import` takes in, and what it leaves outside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from everloop.errors import DataError, EverloopError, InvalidRequest, NotFound
from everloop.model import checkpoint, lora
from everloop.model.importing import import_model
from everloop.model.safetensors import load_tensors, save_tensors
from everloop.model.versions import load_version, text_directory
from everloop.store.database import Database
from everloop.store.registry import Registry
from tests.model.layouts import our_logits, sample_ids
from tests.model.speaking import make_adapter, make_model, make_tokenizer


@pytest.fixture
def registry(home: Path) -> Iterator[Registry]:
    db = Database(home)
    yield Registry(db)
    db.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def nothing_registered(registry: Registry) -> bool:
    mine = [v for v in registry.list_models() if v.version != "embedded"]
    return not mine and not list(registry.folder.glob(".*"))


def test_import_copies_what_is_needed_and_no_more(model: Path, registry: Registry) -> None:
    (model / "LICENSE").write_text("free")
    (model / "notes.txt").write_text("text")
    (model / "optimizer.pt").write_bytes(b"cos\nsystem\n")
    (model / "modeling.py").write_text("import os")
    (model / "other.safetensors").write_bytes(b"not ours")
    (model / "sub").mkdir()
    imported = import_model(model, registry, name="mine")
    version = imported.version
    assert {p.name for p in version.path.iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("chat_template.jinja", "generation_config.json", "LICENSE", "notes.txt"),
    }
    assert (version.name, version.version, version.kind, version.base) == (
        "mine",
        "1",
        "full",
        None,
    )
    assert version.source == f"folder {model}"
    for file in version.path.iterdir():
        assert file.read_bytes() == (model / file.name).read_bytes()
    assert registry.get("mine") == version
    assert import_model(model, registry, name="mine").version.version == "2"
    assert import_model(model, registry, name="mine").sample == imported.sample


def test_sharded_and_half_precision(tmp_path: Path, registry: Registry) -> None:
    model = make_model(tmp_path / "half", dtype=torch.bfloat16)
    config, weights = checkpoint.load(model, dtype=None)
    checkpoint.save(
        tmp_path / "sharded", weights, config, tokenizer_dir=model, max_shard_bytes=50_000
    )
    version = import_model(tmp_path / "sharded", registry, name="mine").version
    assert len(list(version.path.glob("*.safetensors"))) > 2
    _, loaded = load_version(version, registry, dtype=None)
    assert loaded.lm_head.weight.dtype == torch.bfloat16


def break_weights(model: Path, value: float) -> None:
    path = model / "model.safetensors"
    tensors = {k: v.clone() for k, v in load_tensors(path).items()}
    tensors["model.layers.1.mlp.down_proj.weight"][3, 3] = value
    save_tensors(path, tensors)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_model_that_computes_no_numbers(model: Path, registry: Registry, value: float) -> None:
    break_weights(model, value)
    with pytest.raises(DataError, match="infinities or NaN"):
        import_model(model, registry, name="mine")
    assert nothing_registered(registry)


def test_tokenizer_larger_than_the_model(model: Path, registry: Registry) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save(str(model / "tokenizer.json"))
    with pytest.raises(DataError, match="has 321 tokens, the model only 320"):
        import_model(model, registry, name="mine")
    assert nothing_registered(registry)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("tokenizer.json", b"{}", "can't be read as a tokenizer"),
        ("tokenizer_config.json", b"[", "not valid JSON"),
        ("config.json", None, "config.json is missing"),
        ("config.json", b'{"architectures": ["GPT2LMHeadModel"]}', "isn't supported"),
        ("model.safetensors", b"", "not a valid safetensors file"),
        ("model.safetensors", None, "has no model.safetensors"),
        ("chat_template.jinja", b"{% for %}", "template"),
        ("chat_template.jinja", b"{{ raise_exception('no') }}", "template"),
        ("chat_template.jinja", b"{% for i in range(9999999) %}x{% endfor %}", "template"),
    ],
)
def test_broken_file(
    model: Path, registry: Registry, name: str, content: bytes | None, message: str
) -> None:
    (model / name).unlink()
    if content is not None:
        (model / name).write_bytes(content)
    with pytest.raises(EverloopError, match=message):
        import_model(model, registry, name="mine")
    assert nothing_registered(registry)


def test_pickles_are_refused(model: Path, registry: Registry) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pytorch_model\.bin is a pickle"):
        import_model(model, registry, name="mine")


def test_bad_name_and_no_directory(model: Path, registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        import_model(model, registry, name="../mine")
    with pytest.raises(DataError, match="is no directory"):
        import_model(tmp_path / "gone", registry, name="mine")
    with pytest.raises(InvalidRequest, match="leave --base out"):
        import_model(model, registry, name="mine", base="everloop-small")
    assert nothing_registered(registry)


def test_adapter_on_its_base(model: Path, registry: Registry, tmp_path: Path) -> None:
    import_model(model, registry, name="base")
    adapter = make_adapter(tmp_path / "adapter", model)
    with pytest.raises(InvalidRequest, match="say with --base"):
        import_model(adapter, registry, name="tuned")
    with pytest.raises(NotFound):
        import_model(adapter, registry, name="tuned", base="gone")
    version = import_model(adapter, registry, name="tuned", base="base").version
    assert (version.kind, version.base) == ("lora", "base@1")
    assert text_directory(version, registry) == registry.get("base").path
    _, merged = load_version(version, registry)
    _, expected = lora.load_merged(adapter, model)
    assert torch.equal(our_logits(merged, sample_ids()), our_logits(expected, sample_ids()))
    assert not torch.equal(
        our_logits(merged, sample_ids()), our_logits(checkpoint.load(model)[1], sample_ids())
    )


def test_adapter_that_names_its_base(model: Path, registry: Registry, tmp_path: Path) -> None:
    import_model(model, registry, name="org/base")
    adapter = make_adapter(tmp_path / "adapter", model, base_name="org/base")
    assert import_model(adapter, registry, name="tuned").version.base == "org/base@1"


def test_broken_adapters(model: Path, registry: Registry, tmp_path: Path) -> None:
    import_model(model, registry, name="base")
    adapter = make_adapter(tmp_path / "adapter", model)
    weights = adapter / "adapter_model.safetensors"
    weights.rename(adapter / "adapter_model.bin")
    with pytest.raises(DataError, match=r"adapter_model\.bin is a pickle"):
        import_model(adapter, registry, name="tuned", base="base")
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(DataError, match=r"has no adapter_model\.safetensors"):
        import_model(adapter, registry, name="tuned", base="base")
    assert [v.name for v in registry.list_models() if v.version != "embedded"] == ["base"]


def test_what_transformers_saved(registry: Registry, tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    make_tokenizer(tmp_path / "theirs")
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "theirs", max_shard_size="30KB")
    version = import_model(tmp_path / "theirs", registry, name="theirs").version
    assert json.loads((version.path / "config.json").read_text())["model_type"] == "qwen2"

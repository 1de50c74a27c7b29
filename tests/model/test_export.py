"""What `export` writes loads elsewhere and computes the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import peft
import pytest
import torch

from everloop.errors import EverloopError, InvalidRequest
from everloop.model import checkpoint
from everloop.model.export import export_adapter, export_model
from everloop.model.importing import import_model
from everloop.model.safetensors import load_tensors
from everloop.model.versions import load_version
from everloop.store.database import Database
from everloop.store.registry import Registry
from tests.model.layouts import LAYOUTS, furthest, oracle, oracle_logits, our_logits, sample_ids
from tests.model.speaking import make_adapter, make_model

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Iterator[Registry]:
    db = Database(home)
    registry = Registry(db)
    import_model(make_model(tmp_path / "model"), registry, name="base")
    adapter = make_adapter(tmp_path / "adapter", tmp_path / "model")
    import_model(adapter, registry, name="tuned", base="base")
    yield registry
    db.close()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_transformers_computes_the_same(layout: str, home: Path, tmp_path: Path) -> None:
    db = Database(home)
    registry = Registry(db)
    version = import_model(
        make_model(tmp_path / "model", layout=layout), registry, name="mine"
    ).version
    exported = export_model(version, registry, tmp_path / "out")
    db.close()
    assert exported.max_logit_difference == 0
    assert exported.bytes == sum(p.stat().st_size for p in (tmp_path / "out").iterdir())
    ours = our_logits(checkpoint.load(version.path)[1], sample_ids())
    assert furthest(ours, oracle_logits(oracle(tmp_path / "out"), sample_ids())) <= 1e-4
    for file in version.path.iterdir():  # our own model comes out byte by byte as it went in
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_narrower_type(registry: Registry, tmp_path: Path, dtype: str) -> None:
    exported = export_model(registry.get("base"), registry, tmp_path / "out", dtype=dtype)
    assert 0 < exported.max_logit_difference < 0.5
    stored = load_tensors(tmp_path / "out" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {checkpoint.DTYPES[dtype]}


def test_shards(registry: Registry, tmp_path: Path) -> None:
    export_model(registry.get("base"), registry, tmp_path / "out", max_shard_bytes=50_000)
    assert (tmp_path / "out" / "model.safetensors.index.json").exists()
    oracle(tmp_path / "out")


def test_adapter_merged_into_its_base(registry: Registry, tmp_path: Path) -> None:
    version = registry.get("tuned")
    assert export_model(version, registry, tmp_path / "out").max_logit_difference == 0
    expected = our_logits(load_version(version, registry)[1], sample_ids())
    assert furthest(oracle_logits(oracle(tmp_path / "out"), sample_ids()), expected) <= 1e-4
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_adapter_alone(registry: Registry, tmp_path: Path) -> None:
    version = registry.get("tuned")
    assert export_adapter(version, registry, tmp_path / "out").max_logit_difference == 0
    base = oracle(registry.get("base").path)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "out").eval()
    expected = our_logits(load_version(version, registry)[1], sample_ids())
    assert furthest(oracle_logits(theirs, sample_ids()), expected) <= 1e-4
    with pytest.raises(InvalidRequest, match="not an adapter"):
        export_adapter(registry.get("base"), registry, tmp_path / "x")


def test_bad_settings(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="fp32, bf16, fp16"):
        export_model(registry.get("base"), registry, tmp_path / "x", dtype="int8")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    with pytest.raises(InvalidRequest, match="already exists"):
        export_model(registry.get("base"), registry, tmp_path / "taken")
    assert [p.name for p in (tmp_path / "taken").iterdir()] == ["file"]


def test_disk_that_lies(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flipped bit between writing and reading back keeps the export from appearing."""
    write = checkpoint.save_tensors

    def flip(path: Path, *rest: object) -> None:
        write(path, *rest)  # type: ignore[arg-type]
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)

    monkeypatch.setattr(checkpoint, "save_tensors", flip)
    with pytest.raises(EverloopError, match="read back with another"):
        export_model(registry.get("base"), registry, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert not list(tmp_path.glob(".x*"))


def test_half_precision_as_stored(home: Path, tmp_path: Path) -> None:
    db = Database(home)
    registry = Registry(db)
    model = make_model(tmp_path / "model", dtype=torch.bfloat16)
    version = import_model(model, registry, name="half").version
    assert export_model(version, registry, tmp_path / "out").max_logit_difference == 0
    db.close()
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert weights == (model / "model.safetensors").read_bytes()

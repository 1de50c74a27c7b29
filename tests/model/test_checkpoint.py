"""Model directories: byte-identical saves, transformers as the oracle, and every refusal."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from everloop.errors import DataError, InvalidRequest
from everloop.model.checkpoint import TEXT_FILES, load, save, weight_files
from everloop.model.safetensors import load_tensors, save_tensors
from tests.model.layouts import (
    LAYOUTS,
    furthest,
    oracle,
    oracle_logits,
    our_logits,
    sample_ids,
    saved,
)


def contents(directory: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(directory.iterdir())}


@pytest.fixture
def hf(tmp_path: Path) -> Path:
    """A tied Qwen2 model saved by transformers."""
    saved("qwen2-tied", tmp_path / "hf")
    return tmp_path / "hf"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shard", [5 * 10**9, 50_000])
def test_save_load_save_is_byte_identical(layout: str, shard: int, tmp_path: Path) -> None:
    saved(layout, tmp_path / "hf")
    config, model = load(tmp_path / "hf")
    save(tmp_path / "one", model, config, max_shard_bytes=shard)
    config, model = load(tmp_path / "one")
    save(tmp_path / "two", model, config, max_shard_bytes=shard)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one == two
    assert (len(one) > 4) == (shard == 50_000)
    assert not list(tmp_path.glob(".*"))


def test_shards_of_transformers_and_ours_agree(tmp_path: Path) -> None:
    theirs = saved("llama-biased-tied", tmp_path / "hf", max_shard_size="60KB")
    assert (tmp_path / "hf" / "model.safetensors.index.json").exists()
    config, model = load(tmp_path / "hf")
    expected = oracle_logits(theirs, sample_ids())
    assert furthest(our_logits(model, sample_ids()), expected) <= 1e-4
    save(tmp_path / "ours", model, config, max_shard_bytes=60_000)
    assert furthest(oracle_logits(oracle(tmp_path / "ours"), sample_ids()), expected) == 0
    sizes = [p.stat().st_size for p in (tmp_path / "ours").glob("*.safetensors")]
    assert len(sizes) > 2
    assert max(sizes) < 70_000


@pytest.mark.parametrize("layout", ["qwen3", "qwen3-tied-biased"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(layout: str, dtype: torch.dtype, tmp_path: Path) -> None:
    saved(layout, tmp_path / "hf")
    config, model = load(tmp_path / "hf")
    save(tmp_path / "half", model, config, dtype=dtype)
    assert oracle(tmp_path / "half", dtype="auto").dtype == dtype
    _, half = load(tmp_path / "half", dtype=None)
    assert {p.dtype for p in half.parameters()} == {dtype}
    _, whole = load(tmp_path / "half")
    assert {p.dtype for p in whole.parameters()} == {torch.float32}
    theirs = oracle(tmp_path / "half", dtype=torch.float32)
    ids = sample_ids()
    assert furthest(our_logits(whole, ids), oracle_logits(theirs, ids)) <= 1e-4
    save(tmp_path / "again", whole, config, dtype=dtype)
    assert contents(tmp_path / "again") == contents(tmp_path / "half")


def test_fp16_overflow_is_refused(hf: Path, tmp_path: Path) -> None:
    config, model = load(hf)
    with torch.no_grad():
        model.model.norm.weight[0] = 70_000
    with pytest.raises(InvalidRequest, match=r"float16 can't hold model\.norm\.weight.*bf16"):
        save(tmp_path / "x", model, config, dtype=torch.float16)
    save(tmp_path / "x", model, config, dtype=torch.bfloat16)


def test_tied_head_is_stored_once_and_stays_tied(hf: Path, tmp_path: Path) -> None:
    config, model = load(hf)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    save(tmp_path / "x", model, config)
    assert "lm_head.weight" not in load_tensors(tmp_path / "x" / "model.safetensors")


def test_tied_head_stored_twice(hf: Path) -> None:
    """Some files repeat the tied head; a head that differs would be dropped silently."""
    path = hf / "model.safetensors"
    tensors = {k: v.clone() for k, v in load_tensors(path).items()}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_tensors(path, tensors)
    load(hf)
    tensors["lm_head.weight"][0, 0] += 1
    save_tensors(path, tensors)
    with pytest.raises(DataError, match="ties the embeddings"):
        load(hf)


def test_training_a_loaded_model_leaves_its_files_alone(hf: Path) -> None:
    before = contents(hf)
    _, model = load(hf)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(sample_ids()).square().mean().backward()
    optimizer.step()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert contents(hf) == before
    assert furthest(our_logits(load(hf)[1], sample_ids()), our_logits(model, sample_ids())) > 0.1


def test_text_files_travel(hf: Path, tmp_path: Path) -> None:
    for name in TEXT_FILES:
        (hf / name).write_bytes(name.encode() + b"\r\n\xff")
    (hf / "secret.txt").write_text("no")
    config, model = load(hf)
    save(tmp_path / "x", model, config, tokenizer_dir=hf)
    found = contents(tmp_path / "x")
    assert {n: found[n] for n in TEXT_FILES} == {n: contents(hf)[n] for n in TEXT_FILES}
    assert found.keys() == {*TEXT_FILES, "config.json", "model.safetensors"}


def test_nothing_is_overwritten(hf: Path, tmp_path: Path) -> None:
    config, model = load(hf)
    (tmp_path / "taken").mkdir()
    save(tmp_path / "taken", model, config)  # an empty directory is free
    before = contents(tmp_path / "taken")
    with pytest.raises(InvalidRequest, match="already exists"):
        save(tmp_path / "taken", model, config)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match="already exists"):
        save(tmp_path / "file", model, config)
    assert contents(tmp_path / "taken") == before


def test_failed_save_leaves_nothing(hf: Path, tmp_path: Path) -> None:
    config, model = load(hf)
    with torch.no_grad():
        model.model.norm.weight[0] = 70_000  # found out after most files are written
    with pytest.raises(InvalidRequest):
        save(tmp_path / "new" / "x", model, config, dtype=torch.float16, max_shard_bytes=20_000)
    assert list((tmp_path / "new").iterdir()) == []


PICKLES = ["pytorch_model.bin", "consolidated.00.pth", "model.pt", "last.ckpt", "model.pkl"]


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_are_refused_unread(name: str, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch " + str(trap).encode() + b"'\ntR.")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match=rf"{name} is a pickle.*run any code.*safetensors"):
        load(tmp_path)
    assert not trap.exists()


def test_a_pickle_beside_safetensors_is_ignored(hf: Path) -> None:
    (hf / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    load(hf)


def edit_weights(hf: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = hf / "model.safetensors"
    tensors = {k: v.clone() for k, v in load_tensors(path).items()}
    change(tensors)
    save_tensors(path, tensors)


NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(NAME), f"{NAME} is missing"),
        (lambda t: t.update({NAME: t[NAME].T}), r"up_proj.weight has shape \[64, 96\]"),
        (lambda t: t.update(extra=torch.ones(1)), "'extra' has no place in a qwen2 model"),
        (lambda t: t.update({NAME: t[NAME].to(torch.int8)}), "up_proj.weight is quantized"),
        (lambda t: t.clear(), "has 0 tensors, config.json promises 3 layers"),
    ],
)
def test_weights_must_fit_the_config(
    hf: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    edit_weights(hf, change)
    with pytest.raises(DataError, match=message) as info:
        load(hf)
    assert info.value.path == str(hf)


def test_old_rotary_tables_are_no_error(hf: Path) -> None:
    edit_weights(
        hf, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    )
    load(hf)


def test_config_cannot_claim_more_layers_than_the_file_has(hf: Path) -> None:
    value = json.loads((hf / "config.json").read_text())
    value["num_hidden_layers"] = 10_000
    value["layer_types"] = None
    (hf / "config.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match="promises 10000 layers"):
        load(hf)


@pytest.fixture
def sharded(hf: Path, tmp_path: Path) -> Path:
    config, model = load(hf)
    save(tmp_path / "sharded", model, config, max_shard_bytes=60_000)
    return tmp_path / "sharded"


def edit_index(directory: Path, change: Callable[[dict[str, str]], object]) -> None:
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("../hf/model.safetensors", "no safetensors file here"),
        ("/etc/passwd", "no safetensors file here"),
        ("pytorch_model.bin", "no safetensors file here"),
        ("gone.safetensors", "gone.safetensors, which is missing"),
        ("a\0b.safetensors", "missing|no safetensors"),
    ],
)
def test_index_may_only_name_files_beside_it(sharded: Path, file: str, message: str) -> None:
    edit_index(sharded, lambda names: names.update({NAME: file}))
    with pytest.raises(DataError, match=message):
        load(sharded)


def test_index_and_shards_must_agree(sharded: Path) -> None:
    edit_index(sharded, lambda names: names.pop(NAME))
    with pytest.raises(DataError, match=f"disagree about tensor '{NAME}'"):
        load(sharded)


@pytest.mark.parametrize("index", ["", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_broken_index(sharded: Path, index: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(index)
    with pytest.raises(DataError, match=r"index\.json"):
        load(sharded)


def test_no_model_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no directory"):
        load(tmp_path / "gone")
    with pytest.raises(DataError, match=r"has no model\.safetensors"):
        weight_files(tmp_path)


def test_kill_during_save_leaves_all_or_nothing(hf: Path, tmp_path: Path) -> None:
    """A child saves again and again until it is killed; what has appeared is whole."""
    code = (
        "import itertools, sys, torch\n"
        "from pathlib import Path\n"
        "from everloop.model.checkpoint import load, save\n"
        "torch.set_num_threads(1)\n"
        "config, model = load(Path(sys.argv[1]))\n"
        "for i in itertools.count():\n"
        "    save(Path(sys.argv[2]) / f'{i:04d}', model, config, max_shard_bytes=20_000)\n"
        "    print(i, flush=True)\n"
    )
    target = tmp_path / "out"
    command = [sys.executable, "-c", code, str(hf), str(target)]
    expected = our_logits(load(hf)[1], sample_ids())
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(3):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)  # in the middle of the fourth, most likely
    child.communicate()
    whole = [path for path in target.iterdir() if not path.name.startswith(".")]
    assert len(whole) >= 3
    for path in whole:
        assert torch.equal(our_logits(load(path)[1], sample_ids()), expected)

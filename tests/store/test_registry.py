from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from everloop.errors import InvalidRequest, NotFound
from everloop.store import files
from everloop.store import registry as module
from everloop.store.database import Database
from everloop.store.registry import Registry


@pytest.fixture
def embedded(tmp_path: Path) -> Path:
    return folder(tmp_path / "embedded" / "everloop-small").parent


@pytest.fixture
def registry(home: Path, embedded: Path) -> Iterator[Registry]:
    db = Database(home)
    yield Registry(db, embedded_dir=embedded)
    db.close()


def folder(path: Path, weights: bytes = b"weights") -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(weights)
    return path


def test_openais_names_old_and_new_mean_the_default_model(registry: Registry) -> None:
    names = (
        "gpt-4 gpt-4-0613 gpt-4o gpt-4o-mini gpt-4o-mini-2024-07-18 gpt-4.1-nano gpt-5.4 "
        "gpt-5-anything gpt-3.5-turbo gpt-3.5-turbo-0125 gpt-3.5-turbo-instruct davinci "
        "text-davinci-003 text-davinci-edit-001 text-embedding-3-small o3-mini default"
    )
    for name in names.split():
        found = registry.resolve(name)
        assert found is not None, name
        assert found.id == "everloop-small@embedded"
    for name in ("gpt", "gpt-4oops", "nothing", "", "*", "gpt-4@1", "everloop-small@1"):
        assert (registry.resolve(name) is None) == (name != "gpt-4oops"), name


def test_versions_are_numbered_and_never_change(registry: Registry, tmp_path: Path) -> None:
    source = folder(tmp_path / "a")
    first = registry.register("mine", source, "folder a")
    (source / "model.safetensors").write_bytes(b"changed later")
    second = registry.register("mine", source, "folder a, again")
    assert (first.version, second.version) == ("1", "2")
    assert (first.path / "model.safetensors").read_bytes() == b"weights"
    assert first.sha256 != second.sha256
    assert registry.get("mine") == second
    assert registry.get("mine@1") == first
    assert [v.id for v in registry.list_models()] == [
        "everloop-small@embedded",
        "mine@1",
        "mine@2",
    ]
    registry.remove("mine@2")
    assert registry.register("mine", source, "folder a").version == "3"  # 2 is never used again


def test_the_homes_version_goes_before_the_embedded_one(registry: Registry, tmp_path: Path) -> None:
    mine = registry.register("everloop-small", folder(tmp_path / "a"), "tuned")
    assert registry.get("gpt-4") == mine
    assert registry.get("everloop-small@embedded").path != mine.path
    registry.remove("everloop-small")
    assert registry.get("gpt-4").version == "embedded"
    with pytest.raises(InvalidRequest, match="part of the program"):
        registry.remove("everloop-small")


def test_move_takes_the_folder_itself(registry: Registry, tmp_path: Path) -> None:
    source = folder(tmp_path / "a")
    inode = (source / "model.safetensors").stat().st_ino
    version = registry.register("mine", source, "folder", move=True)
    assert not source.exists()
    assert (version.path / "model.safetensors").stat().st_ino == inode


def test_links_of_a_hub_cache_become_files(registry: Registry, tmp_path: Path) -> None:
    source = folder(tmp_path / "a")
    (tmp_path / "blob").write_bytes(b"linked")
    (source / "tokenizer.json").symlink_to(tmp_path / "blob")
    version = registry.register("org/model", source, "hub")
    (tmp_path / "blob").unlink()
    assert (version.path / "tokenizer.json").read_bytes() == b"linked"
    assert registry.get("org/model").path.is_relative_to(registry.folder)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/x", "a/../b", "a/b/c", "a--b", "a@1", "a b", "default", "模"]
)
def test_a_name_cannot_leave_its_folder(registry: Registry, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match="can't be a model's name"):
        registry.register(name, folder(tmp_path / "a"), "folder")
    assert not registry.folder.exists()


def test_a_failed_registration_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no folder with model files"):
        registry.register("mine", tmp_path / "missing", "folder")
    with pytest.raises(InvalidRequest, match="is an alias"):
        registry.register("gpt-4", folder(tmp_path / "a"), "folder")
    with pytest.raises(NotFound, match="`missing`"):
        registry.register("mine", tmp_path / "a", "folder", base="missing", kind="lora")
    with pytest.raises(InvalidRequest, match="needs its base"):
        registry.register("mine", tmp_path / "a", "folder", kind="lora")
    assert registry.resolve("mine") is None
    assert not registry.folder.exists() or not list(registry.folder.iterdir())


def test_files_left_by_a_killed_process_are_replaced(registry: Registry, tmp_path: Path) -> None:
    folder(registry.folder / "mine" / "1", b"left behind")
    version = registry.register("mine", folder(tmp_path / "a"), "folder")
    assert (version.path / "model.safetensors").read_bytes() == b"weights"


def test_an_alias_is_moved_to_switch_serving(registry: Registry, tmp_path: Path) -> None:
    mine = registry.register("mine", folder(tmp_path / "a"), "folder")
    registry.set_alias("gpt-4", "mine@1")
    assert registry.get("gpt-4") == mine
    registry.set_alias("best", "gpt-4")
    registry.set_alias("best-*", "best")
    assert registry.get("best-of-all") == mine
    with pytest.raises(InvalidRequest, match=r"`best`, `best-\*`, `gpt-4`"):
        registry.remove("mine")
    registry.set_alias("gpt-4", "default")
    assert registry.get("best").version == "embedded"
    registry.remove("mine")
    registry.remove_alias("gpt-4")
    assert registry.resolve("best") is None
    with pytest.raises(NotFound, match="No alias"):
        registry.remove_alias("gpt-4")


def test_the_exact_alias_wins_then_the_longest(registry: Registry, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        registry.register(name, folder(tmp_path / name), "folder")
    registry.set_alias("x*", "a")
    registry.set_alias("xy*", "b")
    registry.set_alias("xyz", "c")
    assert [registry.get(name).name for name in ("x1", "xy1", "xyz", "xyz1")] == list("abcb")


def test_aliases_that_lead_nowhere_are_refused(registry: Registry) -> None:
    with pytest.raises(NotFound, match="No model or alias `missing`"):
        registry.set_alias("x", "missing")
    with pytest.raises(InvalidRequest, match="model's own name"):
        registry.set_alias("everloop-small", "default")
    with pytest.raises(InvalidRequest, match="follows the setting `model`"):
        registry.set_alias("default", "everloop-small")
    with pytest.raises(InvalidRequest, match="can't be an alias"):
        registry.set_alias("a*b", "default")
    registry.set_alias("x", "default")
    registry.set_alias("y", "x")
    with pytest.raises(InvalidRequest, match="back at itself"):
        registry.set_alias("x", "y")


def test_a_base_outlives_its_loras(registry: Registry, tmp_path: Path) -> None:
    registry.register("base", folder(tmp_path / "a"), "folder")
    lora = registry.register("tuned", folder(tmp_path / "b"), "run", base="base", kind="lora")
    assert lora.base == "base@1"
    with pytest.raises(InvalidRequest, match="LoRA on it"):
        registry.remove("base")
    registry.remove("tuned")
    registry.remove("base")


def test_another_process_is_seen(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register("mine", folder(tmp_path / "a"), "folder")
    for alias in ("gpt-4", "brand-new"):
        command = ["everloop", "models", "alias", "set", alias, "mine"]
        subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)
    assert registry.get("brand-new").name == "mine"  # an unknown name is looked up at once
    monkeypatch.setattr(module, "FRESH_SECONDS", 0.0)  # as if the second had passed
    assert registry.get("gpt-4").name == "mine"


def test_the_default_model_is_a_setting(home: Path, embedded: Path, tmp_path: Path) -> None:
    db = Database(home)
    registry = Registry(db, embedded_dir=embedded, default_model="mine")
    assert registry.resolve("gpt-4") is None
    registry.register("mine", folder(tmp_path / "a"), "folder")
    assert registry.get("gpt-4").name == "mine"
    assert next(iter(registry.aliases().items())) == ("default", "mine")
    db.close()


def test_the_model_in_the_package_is_whole() -> None:
    found = module.embedded_models()
    assert "everloop-small" in found
    for version in found.values():
        # `sha256sum FILES > SHA256SUMS` beside them; without it every start hashes them again
        assert files.recorded_sums(version.path) == files.folder_sums(version.path)

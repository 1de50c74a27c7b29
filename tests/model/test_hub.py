"""Downloads from a hub on a real socket: what is fetched, what is refused, and going on after a
connection broke."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from everloop.errors import AuthenticationFailed, DataError, EverloopError, InvalidRequest, NotFound
from everloop.model import hub
from everloop.model.hub import HubUnreachable, parse, pull
from tests.model.hub_server import COMMIT, Hub, serve
from tests.model.layouts import LAYOUTS

WEIGHTS = os.urandom(400_000)
FILES = {
    "config.json": LAYOUTS["qwen3"]().to_json_string().encode(),
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "tokenizer_config.json": '{"name": "中文"}'.encode(),
    "chat_template.jinja": b"{{ messages }}",
    "merges.txt": b"a b\n",
    "LICENSE": b"Apache",
    "README.md": b"# Tiny",
    "pytorch_model.bin": b"cos\nsystem\n",
    "consolidated.safetensors": WEIGHTS,
    "model.gguf": b"GGUF",
    "modeling_tiny.py": b"import os",
    "training_args.bin": b"\x80\x02",
    ".gitattributes": b"*.bin lfs",
}
WANTED = {
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("chat_template.jinja", "merges.txt", "LICENSE", "README.md"),
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(Hub(dict(FILES))) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def names(directory: Path) -> set[str]:
    return {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}


def test_only_safe_files_are_fetched(server: Hub, tmp_path: Path) -> None:
    pulled = pull("org/tiny", tmp_path)
    assert pulled.repository == "org/tiny"
    assert pulled.commit == COMMIT
    assert names(pulled.directory) == WANTED
    for name in WANTED:
        assert (pulled.directory / name).read_bytes() == FILES[name]
    for name in FILES.keys() - WANTED:
        assert server.fetched(name) == []


def test_revision(server: Hub, tmp_path: Path) -> None:
    assert pull("org/tiny@v1", tmp_path).commit == COMMIT
    assert any(path == "/api/models/org/tiny/revision/v1" for _, path, _ in server.log)
    with pytest.raises(NotFound, match="not this revision"):
        pull("org/tiny@v2", tmp_path)


LARGE = 12 * 2**20  # huggingface_hub writes pieces of 10 MiB: less than one is lost in a break


def start(range_header: str | None) -> int:
    return 0 if range_header is None else int(range_header.removeprefix("bytes=").rstrip("-"))


def test_cut_connection_is_resumed(server: Hub, tmp_path: Path) -> None:
    server.files["model.safetensors"] = os.urandom(LARGE)
    server.cut["model.safetensors"] = [11 * 2**20]
    pulled = pull("org/tiny", tmp_path)
    content = (pulled.directory / "model.safetensors").read_bytes()
    assert content == server.files["model.safetensors"]
    assert [start(r) for r in server.fetched("model.safetensors")] == [0, 10 * 2**20]


def test_a_later_run_goes_on(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run ends in the middle (Ctrl-C); the second fetches only the rest."""
    from huggingface_hub import file_download

    server.files["model.safetensors"] = os.urandom(LARGE)
    server.cut["model.safetensors"] = [11 * 2**20]

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(file_download.time, "sleep", interrupt)  # reached when the connection broke
        with pytest.raises(KeyboardInterrupt):
            pull("org/tiny", tmp_path)
    server.log.clear()
    pulled = pull("org/tiny", tmp_path)
    content = (pulled.directory / "model.safetensors").read_bytes()
    assert content == server.files["model.safetensors"]
    assert [start(r) for r in server.fetched("model.safetensors")] == [10 * 2**20]
    assert server.fetched("config.json") == []  # it had arrived


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damaged_file_is_removed(server: Hub, tmp_path: Path, name: str) -> None:
    content = bytearray(FILES[name])
    content[len(content) // 2] ^= 1
    server.tampered[name] = bytes(content)
    with pytest.raises(DataError, match=rf"{name}: arrived damaged.*Pull again"):
        pull("org/tiny", tmp_path)
    assert not {name, f"{name}.partial"} & names(tmp_path / "org--tiny" / COMMIT)
    server.tampered.clear()
    assert (pull("org/tiny", tmp_path).directory / name).read_bytes() == FILES[name]


def test_token_goes_to_the_hub_alone(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pull("org/tiny", tmp_path)
    sent = {path.split("/")[1] == "cdn": token for path, token in server.tokens}
    assert sent == {True: None, False: "Bearer hf_secret"}


def test_two_pulls_of_one_file(server: Hub, tmp_path: Path) -> None:
    partial = tmp_path / "org--tiny" / COMMIT / "config.json.partial"
    partial.parent.mkdir(parents=True)
    with partial.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InvalidRequest, match="another process"):
            pull("org/tiny", tmp_path)
    partial.write_bytes(b"longer than the file itself" * 99)  # left by something else
    assert (pull("org/tiny", tmp_path).directory / "config.json").read_bytes() == FILES[
        "config.json"
    ]


def test_pickle_only_repository_is_refused_unfetched(server: Hub, tmp_path: Path) -> None:
    for name in ("model.safetensors", "consolidated.safetensors"):
        del server.files[name]
    with pytest.raises(DataError, match=r"pytorch_model\.bin is a pickle"):
        pull("org/tiny", tmp_path)
    assert server.fetched("pytorch_model.bin") == []
    assert not any(tmp_path.glob("org*"))


@pytest.mark.parametrize("config", ["config.json", "adapter_config.json"])
def test_unsupported_model_is_refused_before_its_weights(
    server: Hub, tmp_path: Path, config: str
) -> None:
    server.files[config] = b'{"architectures": ["GPT2LMHeadModel"], "peft_type": "LOHA"}'
    with pytest.raises(EverloopError, match="supported"):
        pull("org/tiny", tmp_path)
    assert server.fetched("model.safetensors") == []


def test_repository_without_weights(server: Hub, tmp_path: Path) -> None:
    server.files.clear()
    server.files["model.gguf"] = b"GGUF"
    with pytest.raises(DataError, match="no safetensors weights"):
        pull("org/tiny", tmp_path)


def test_hostile_file_names_are_not_fetched(server: Hub, tmp_path: Path) -> None:
    for name in ("../../evil.json", "/etc/evil.json", "..\\evil.json", "a/b.json", "-x.json"):
        server.files[name] = b"{}"
    pulled = pull("org/tiny", tmp_path / "downloads")
    assert names(pulled.directory) == WANTED
    assert not list(tmp_path.rglob("evil*"))


def test_unknown_gated_and_broken(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFound, match=r"no model org/other.*HF_TOKEN"):
        pull("org/other", tmp_path)
    server.gated = True
    with pytest.raises(AuthenticationFailed, match=r"gated.*HF_TOKEN"):
        pull("org/tiny", tmp_path)
    server.broken = True
    with pytest.raises(HubUnreachable, match=r"answered 503.*HF_ENDPOINT"):
        pull("org/tiny", tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnreachable, match=r"can't be reached.*HF_ENDPOINT"):
        pull("org/tiny", tmp_path)


def test_disk_too_small(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = hub.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(EverloopError, match="EVERLOOP_HOME to a larger disk"):
        pull("org/tiny", tmp_path)
    assert server.fetched("model.safetensors") == []


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "", "org/", "/x", "org/tiny@", "../x", "a b/c"])
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidRequest, match="write ORG/NAME"):
        parse(name)


def test_names() -> None:
    assert parse("Qwen/Qwen3-0.6B") == ("Qwen/Qwen3-0.6B", None)
    assert parse("a/b@refs/pr/1") == ("a/b", "refs/pr/1")

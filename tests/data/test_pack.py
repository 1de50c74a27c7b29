"""Packing: what goes in comes out, once, in order, whatever interrupts it."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from everloop.data.clean import STEPS
from everloop.data.pack import PackedDataset, PackOptions, pack
from everloop.data.sources import Source
from everloop.errors import DataError, InvalidRequest
from everloop.model.template import ChatTemplate
from everloop.model.tokenizer import Tokenizer

from .conftest import documents

OPTIONS = PackOptions(val_fraction=0.1, max_tokens=128, shard_tokens=20_000)


@pytest.fixture
def tokenizer(tokenizer_dir: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_dir)


@pytest.fixture
def source(write) -> Source:
    texts = documents(400, sentences=12)
    return Source(name="mixed", files=(write("mixed.jsonl", [{"text": t} for t in texts]),))


def texts_of(data: PackedDataset, tokenizer: Tokenizer, end: int) -> list[str]:
    """Documents put together again from their pieces."""
    found, text = [], ""
    for i in range(len(data)):
        ids = data.document(i)[0].tolist()
        text += tokenizer.decode([t for t in ids if t != end])
        if ids[-1] == end:
            found.append(text)
            text = ""
    assert not text
    return found


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_every_document_comes_back_once(source, tokenizer, tokenizer_dir, tmp_path) -> None:
    manifest = pack((source,), tokenizer_dir, tmp_path / "out", options=OPTIONS)
    end = manifest["end_of_document"]
    assert tokenizer.decode([end]) == "<|endoftext|>"
    train, held = (PackedDataset(tmp_path / "out", s) for s in ("train", "validation"))
    found = texts_of(train, tokenizer, end), texts_of(held, tokenizer, end)
    assert set(found[0]) | set(found[1]) == set(documents(400, sentences=12))
    assert not set(found[0]) & set(found[1])
    assert 15 < len(found[1]) < 70
    assert max(train.lengths.max(), held.lengths.max()) <= 128
    assert len(list((tmp_path / "out").glob("train-*.tokens"))) > 2
    # The manifest's numbers are those of the files.
    (entry,) = manifest["sources"]
    for split, data, texts in (("train", train, found[0]), ("validation", held, found[1])):
        assert entry["documents"][split] == len(texts)
        assert entry["pieces"][split] == len(data)
        assert entry["tokens"][split] == data.lengths.sum()
        assert entry["bytes"][split] == sum(len(t.encode()) for t in texts)
    assert entry["languages"]["zh"] + entry["languages"]["en"] == 400
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest


def test_equal_input_gives_equal_bytes_and_no_path_in_them(source, tokenizer_dir, tmp_path) -> None:
    pack((source,), tokenizer_dir, tmp_path / "one", options=OPTIONS)
    other = tmp_path / "elsewhere"
    other.mkdir()
    copy = other / source.files[0].name
    copy.write_bytes(source.files[0].read_bytes())
    moved = Source(name=source.name, files=(copy,))
    pack((moved,), tokenizer_dir, tmp_path / "two", options=OPTIONS)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert str(tmp_path) not in (tmp_path / "one" / "manifest.json").read_text()


def test_batches_do_not_show(source, tokenizer_dir, tmp_path, monkeypatch) -> None:
    pack((source,), tokenizer_dir, tmp_path / "one", options=OPTIONS)
    monkeypatch.setattr("everloop.data.packing._BATCH_ROWS", 7)
    pack((source,), tokenizer_dir, tmp_path / "two", options=OPTIONS)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_copies_are_removed_across_sources(write, tokenizer_dir, tmp_path) -> None:
    texts = documents(40)
    near = [t + "!" for t in texts[:10]]
    one = Source(name="one", files=(write("one.jsonl", [{"text": t} for t in texts]),))
    rows = [{"text": t} for t in [*texts[20:], *near, "entirely new text about other things"]]
    two = Source(name="two", files=(write("two.jsonl", rows),), dedup="near")
    first, second = pack((one, two), tokenizer_dir, tmp_path / "a")["sources"]
    assert (first["exact_duplicates"], second["exact_duplicates"]) == (0, 20)
    assert second["near_duplicates"] == 0  # `one` was compared exactly only
    one = Source(name="one", files=one.files, dedup="near")
    first, second = pack((one, two), tokenizer_dir, tmp_path / "b")["sources"]
    assert second["near_duplicates"] + first["near_duplicates"] > 0
    assert sum(second["documents"].values()) >= 1
    none = Source(name="two", files=two.files, dedup="none")
    _, second = pack((one, none), tokenizer_dir, tmp_path / "c")["sources"]
    assert sum(second["documents"].values()) == 31


def test_a_subset_by_size_is_fixed_and_near_the_budget(source, tokenizer_dir, tmp_path) -> None:
    limited = Source(name="mixed", files=source.files, max_bytes=150_000)
    manifest = pack((limited,), tokenizer_dir, tmp_path / "a")
    size = sum(manifest["sources"][0]["bytes"].values())
    assert size == pytest.approx(150_000, rel=0.1)
    again = pack((limited,), tokenizer_dir, tmp_path / "b")
    assert again == manifest


CHATS = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for q, a in [("今天天气怎么样？", "晴朗。"), ("How are you?", "Fine <|im_end|> thanks")]
]


def test_examples_keep_their_targets(write, tokenizer, tokenizer_dir, tmp_path) -> None:
    rows = [*CHATS, {"prompt": "Once upon", "completion": " a time"}]
    chat = Source(name="chat", kind="examples", files=(write("chat.jsonl", rows[:2]),))
    raw = Source(name="raw", kind="examples", files=(write("raw.jsonl", rows[2:]),))
    book = Source(name="book", files=(write("book.txt", "A book.\n\nIts end."),))
    options = PackOptions(val_fraction=0)
    manifest = pack((chat, raw, book), tokenizer_dir, tmp_path / "out", options=options)
    data = PackedDataset(tmp_path / "out")
    template = ChatTemplate.load(tokenizer_dir)
    for i, value in enumerate(CHATS):
        ids, mask = data.document(i)
        expected = template.encode_example(value["messages"])
        assert (ids.tolist(), mask.tolist()) == tuple(map(list, expected))
        target = tokenizer.decode(ids[mask == 1].tolist())
        assert target == value["messages"][1]["content"] + "<|im_end|>"
    ids, mask = data.document(2)
    assert tokenizer.decode(ids[mask == 1].tolist()) == " a time<|endoftext|>"
    assert tokenizer.decode(ids[mask == 0].tolist()) == "Once upon"
    ids, mask = data.document(3)
    assert mask.all()
    assert data.source_of.tolist() == [0, 0, 1, 2]
    targets = [s["targets"]["train"] for s in manifest["sources"]]
    assert targets[2] == len(ids)
    assert sum(targets) == sum(int(data.document(i)[1].sum()) for i in range(4))


def test_an_example_is_never_cut(write, tokenizer_dir, tmp_path) -> None:
    rows = [*CHATS, {"messages": [{"role": "assistant", "content": "很长" * 500}]}]
    source = Source(name="chat", kind="examples", files=(write("chat.jsonl", rows),))
    options = PackOptions(val_fraction=0, max_tokens=100)
    with pytest.raises(
        DataError, match=r"chat\.jsonl:3: the example has \d+ tokens, more than 100"
    ):
        pack((source,), tokenizer_dir, tmp_path / "a", options=options)
    refused: list[DataError] = []
    manifest = pack(
        (source,), tokenizer_dir, tmp_path / "b", options=options, on_refusal=refused.append
    )
    assert [error.line for error in refused] == [3]
    assert manifest["sources"][0]["refused"] == 1
    assert manifest["splits"]["train"]["documents"] == 2


def test_fill_in_the_middle_rearranges_and_loses_nothing(
    source, tokenizer, tokenizer_dir, tmp_path
) -> None:
    import dataclasses

    half = dataclasses.replace(source, fim_rate=0.5)
    options = PackOptions(val_fraction=0.1, max_tokens=2048)
    manifest = pack((half,), tokenizer_dir, tmp_path / "out", options=options)
    marks = tokenizer.fill_in_middle
    data = PackedDataset(tmp_path / "out")
    rewritten, plain = [], []
    for i in range(len(data)):
        ids = data.document(i)[0].tolist()
        assert ids[-1] == manifest["end_of_document"]
        if ids[0] != marks.prefix:
            plain.append(tokenizer.decode(ids[:-1]))
            continue
        suffix, middle = ids.index(marks.suffix), ids.index(marks.middle)
        parts = ids[1:suffix], ids[suffix + 1 : middle], ids[middle + 1 : -1]
        prefix_text, suffix_text, middle_text = map(tokenizer.decode, parts)
        assert middle_text
        rewritten.append(prefix_text + middle_text + suffix_text)
    assert set(rewritten) | set(plain) <= set(documents(400, sentences=12))
    assert len(set(rewritten) | set(plain)) == len(data)
    assert 0.35 < len(rewritten) / len(data) < 0.65
    assert manifest["sources"][0]["fim_pieces"] == len(rewritten)
    held = PackedDataset(tmp_path / "out", "validation")
    assert all(held.document(i)[0][0] != marks.prefix for i in range(len(held)))


def test_texts_that_spell_special_tokens_stay_text(write, tokenizer, tokenizer_dir, tmp_path):
    source = Source(name="a", files=(write("a.txt", "say <|im_start|> and <|endoftext|> twice"),))
    pack((source,), tokenizer_dir, tmp_path / "out", options=PackOptions(val_fraction=0))
    ids = PackedDataset(tmp_path / "out").document(0)[0].tolist()
    assert [i for i in ids if i in tokenizer.special_ids] == ids[-1:]


def test_dirty_text_is_packed_clean(write, tokenizer, tokenizer_dir, tmp_path) -> None:
    line = "好" * 1_000_000
    content = f'{{"text": "half \\ud83d pair\\u0000"}}\n{{"text": "{line}"}}\n'
    source = Source(name="a", files=(write("a.jsonl", content),), clean=STEPS)
    options = PackOptions(val_fraction=0)
    manifest = pack((source,), tokenizer_dir, tmp_path / "out", options=options)
    data = PackedDataset(tmp_path / "out")
    texts = texts_of(data, tokenizer, manifest["end_of_document"])
    assert texts == ["half \ufffd pair", line]


def test_bad_rows_stop_or_are_left_out_and_counted(write, tokenizer_dir, tmp_path) -> None:
    content = '{"text": "one"}\n{"txt": "two"}\n[3]\n{"text": "four"}\n'
    source = Source(name="a", files=(write("a.jsonl", content),))
    with pytest.raises(DataError, match=r"a\.jsonl:2: column 'text' is missing; columns: txt"):
        pack((source,), tokenizer_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    refused: list[DataError] = []
    manifest = pack((source,), tokenizer_dir, tmp_path / "out", on_refusal=refused.append)
    assert sorted(error.line for error in refused) == [2, 3]
    assert manifest["sources"][0]["refused"] == 2


def test_nothing_left_is_an_error(write, tokenizer_dir, tmp_path) -> None:
    source = Source(name="a", files=(write("a.txt", "short"),), min_chars=100)
    with pytest.raises(DataError, match="no training document is left"):
        pack((source,), tokenizer_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_finished_pack_is_left_alone_and_never_mixed(source, tokenizer_dir, tmp_path) -> None:
    out = tmp_path / "out"
    manifest = pack((source,), tokenizer_dir, out, options=OPTIONS)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert pack((source,), tokenizer_dir, out, options=OPTIONS) == manifest
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(InvalidRequest, match="other sources, options or another tokenizer"):
        pack((source,), tokenizer_dir, out, options=PackOptions(seed=1))


@pytest.mark.parametrize(
    ("options", "name"),
    [({"val_fraction": 1.0}, "val_fraction"), ({"max_tokens": 2}, "max_tokens"),
     ({"shard_tokens": 100}, "shard_tokens")],
)  # fmt: skip
def test_wrong_options_are_named(options, name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        PackOptions(**options)


PROGRAM = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from everloop.data import packing
    from everloop.data.pack import PackOptions, pack
    from everloop.data.sources import Source
    from everloop.errors import EverloopError

    data, examples, tokenizer, out = map(Path, sys.argv[1:5])
    packing._BATCH_ROWS = 10
    sources = (
        Source(name="text", files=(data,), dedup="near", fim_rate=0.3, max_bytes=200_000),
        Source(name="chat", files=(examples,), kind="examples"),
    )
    options = PackOptions(val_fraction=0.1, max_tokens=128, shard_tokens=20_000)
    try:
        pack(
            sources, tokenizer, out, options=options, checkpoint_seconds=0.0,
            on_progress=lambda p: print(p.text_bytes, flush=True),
            on_note=lambda note: print(note, file=sys.stderr),
            on_refusal=lambda error: None,
        )
    except EverloopError as error:
        sys.exit(str(error))
    """
)


@pytest.fixture
def command(write, tokenizer_dir):
    texts = documents(500, sentences=10)
    data = write("text.jsonl", [{"text": t} for t in [*texts, *texts[:50]]])
    rows = [{"question": f"{i}?", "answer": t[:40]} for i, t in enumerate(texts[:60])]
    examples = write("chat.jsonl", [*rows[:30], {"wrong": "columns"}, *rows[30:]])

    def make(out: Path) -> list[str]:
        return [sys.executable, "-c", PROGRAM, *map(str, (data, examples, tokenizer_dir, out))]

    return make


def test_killed_at_any_moment_it_continues_to_the_same_bytes(command, tmp_path) -> None:
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    out = tmp_path / "killed"
    kills = 0
    for lines in (1, 3, 12, 2, 9, 10**6):
        with subprocess.Popen(
            command(out), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(lines):
                if not process.stdout.readline():
                    break
            process.send_signal(signal.SIGKILL)
        kills += process.returncode == -signal.SIGKILL
        assert not out.exists() or process.returncode == 0 or files_of(out)
        if out.exists():
            break
        # What a dying machine may leave behind what was synced.
        left = sorted((tmp_path / "killed.partial").glob("train-*"))
        for path in left:
            if path.stem == left[-1].stem:
                with open(path, "ab") as stream:
                    stream.write(b"\xff" * 7)
    assert kills >= 3
    assert files_of(out) == files_of(tmp_path / "whole")
    assert not (tmp_path / "killed.partial").exists()


def test_a_full_disk_is_said_and_overcome(command, tmp_path) -> None:
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    out = tmp_path / "out"

    def small_files() -> None:  # as good as a full disk, and needs no root
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (25_000, 25_000))

    full = subprocess.run(
        command(out), preexec_fn=small_files, capture_output=True, text=True, check=False
    )
    assert full.returncode == 1
    assert "no space left" in full.stderr
    assert "continues where it stopped" in full.stderr
    assert "Traceback" not in full.stderr
    assert not out.exists()
    again = subprocess.run(command(out), capture_output=True, text=True, check=True)
    assert "Continuing an interrupted run" in again.stderr
    assert files_of(out) == files_of(tmp_path / "whole")


def test_a_really_full_disk(command, tmp_path) -> None:
    mount = tmp_path / "tiny"
    mount.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        full = subprocess.run(command(mount / "out"), capture_output=True, text=True, check=False)
        assert full.returncode == 1
        assert "no space left" in full.stderr
        assert "Traceback" not in full.stderr
        assert not (mount / "out").exists()
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_changed_inputs_start_afresh(command, tmp_path, tokenizer_dir, write) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(
        command(out), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        process.kill()
    assert (tmp_path / "out.partial" / "state.json").is_file()
    notes: list[str] = []
    source = Source(name="other", files=(write("other.txt", "Another text."),))
    options = PackOptions(val_fraction=0)
    manifest = pack((source,), tokenizer_dir, out, options=options, on_note=notes.append)
    assert "starting afresh" in notes[0]
    assert manifest["splits"]["train"]["documents"] == 1
    assert len(PackedDataset(out)) == 1
    assert np.array_equal(PackedDataset(out).source_of, [0])

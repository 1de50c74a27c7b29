"""`everloop data`: what a user sees of a file, and that scripts can read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from everloop.cli.data import app
from everloop.cli.inspection import show
from everloop.data.inspection import inspect
from everloop.data.pack import PackedDataset
from everloop.errors import EverloopError, InvalidRequest

from .conftest import documents

CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"{i}？"},
            {"role": "assistant", "content": "好的。"},
        ]
    }
    for i in range(5)
]


def test_a_text_file(write, tokenizer_dir: Path) -> None:
    texts = documents(40)
    path = write("a.jsonl", [{"text": t} for t in [*texts, texts[0]]])
    found = inspect(path, tokenizer=tokenizer_dir)
    assert (found.kind, found.format, found.columns) == ("text", "jsonl", ["text"])
    assert found.rows == 41
    assert found.exact_copies == 1
    assert found.documents + found.exact_copies + found.near_copies == 41
    assert set(found.languages) == {"zh", "en"}
    assert found.total_tokens == found.target_tokens > 0
    assert found.bytes_per_token == pytest.approx(found.bytes / found.total_tokens, abs=1e-3)
    assert found.chars["min"] <= found.chars["median"] <= found.chars["max"]
    assert found.chars["max"] == max(map(len, texts))


def test_the_target_mask_is_the_one_that_is_trained_on(write, tokenizer_dir: Path) -> None:
    found = inspect(write("chat.jsonl", CHATS), tokenizer=tokenizer_dir)
    assert (found.kind, found.layout) == ("examples", "messages")
    runs = found.previews[0]
    assert [text for text, target in runs if target] == ["好的。<|im_end|>"]
    assert "".join(text for text, _ in runs) == (
        "<|im_start|>user\n0？<|im_end|>\n<|im_start|>assistant\n好的。<|im_end|>\n"
    )
    without = inspect(write("chat2.jsonl", CHATS))
    assert without.tokens == {}
    assert without.previews[0] == [("0？\n", False), ("好的。\n", True)]


def test_the_mask_is_shown_in_colour(write, tokenizer_dir: Path) -> None:
    console = Console(force_terminal=True, color_system="standard", width=100, record=True)
    with console.capture() as capture:
        show(inspect(write("chat.jsonl", CHATS), tokenizer=tokenizer_dir), console)
    shown = capture.get()
    assert "\x1b[1;32m好的。<|im_end|>" in shown
    assert "\x1b[2m<|im_start|>user" in shown


def test_markup_in_the_data_is_text(write, capsys) -> None:
    rows = [{"text": "[bold]not markup[/bold] [/nothing]"}, {"txt": "[/x]"}]
    show(inspect(write("a.jsonl", rows)), Console(force_terminal=False, width=100))
    shown = capsys.readouterr().out
    assert "[bold]not markup[/bold] [/nothing]" in shown


def test_refused_rows_come_with_line_and_repair(write, tokenizer_dir: Path) -> None:
    rows = [CHATS[0], {"question": "q", "answer": "a"}, CHATS[1], {"messages": "no"}]
    rows.append({"messages": [{"role": "assistant", "content": "长" * 900}]})
    found = inspect(write("a.jsonl", rows), tokenizer=tokenizer_dir, max_tokens=100)
    assert found.refused == 3
    assert sorted(r.line for r in found.refusals) == [2, 4, 5]
    assert all(r.repair for r in found.refusals)


def test_encodings_are_said(write) -> None:
    content = "今天天气很好。\n我们去公园。\n".encode("gb18030")
    assert "GB18030" in inspect(write("a.txt", content)).notes[0]


def test_only_the_beginning(write) -> None:
    found = inspect(write("a.jsonl", [{"text": t} for t in documents(30)]), max_rows=10)
    assert found.rows == 10
    assert "Only the first 10 rows" in found.notes[-1]


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, EverloopError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


def test_inspect_as_json_and_as_text(write, tokenizer_dir: Path) -> None:
    path = write("chat.jsonl", CHATS)
    found = json.loads(run("inspect", path, "--tokenizer", tokenizer_dir, "--json"))
    assert (found["rows"], found["layout"], found["refused"]) == (5, "messages", 0)
    shown = run("inspect", path, "--tokenizer", tokenizer_dir)
    assert "examples, messages" in shown
    assert "\x1b" not in shown  # no colour off a terminal


def test_inspect_with_told_columns(write) -> None:
    path = write("a.jsonl", [{"q": "?", "a": "!"}])
    options = ("--column", "question=q", "--column", "answer=a", "--json")
    assert json.loads(run("inspect", path, *options))["layout"] == "question"
    with pytest.raises(InvalidRequest, match="part=column"):
        run("inspect", path, "--column", "q")


def test_inspect_leaves_with_1_when_nothing_can_be_used(write) -> None:
    out = run("inspect", write("a.jsonl", [{"foo": 1}]), "--kind", "examples", "--json", code=1)
    assert json.loads(out)["refused"] == 1


def test_split_and_pack(write, tokenizer_dir: Path, tmp_path: Path) -> None:
    write("a.jsonl", [{"text": t} for t in documents(50)])
    out = tmp_path / "split"
    counts = json.loads(
        run("split", tmp_path / "a.jsonl", "--out", out, "--val-fraction", 0.2, "--json")
    )
    assert sum(counts.values()) == 50
    spec = tmp_path / "spec.toml"
    spec.write_text('[[source]]\nname = "a"\nfiles = "split/train.jsonl"\n')
    arguments = ("pack", spec, "--tokenizer", tokenizer_dir, "--out", tmp_path / "packed")
    manifest = json.loads(run(*arguments, "--val-fraction", 0.1, "--json"))
    assert sum(manifest["sources"][0]["documents"].values()) == counts["train"]
    data = PackedDataset(tmp_path / "packed")
    assert data.lengths.sum() == manifest["splits"]["train"]["tokens"]
    assert "tokens to train on" in run(*arguments, "--val-fraction", 0.1)


def test_pack_reports_and_leaves_out_bad_rows(write, tokenizer_dir: Path, tmp_path: Path) -> None:
    good = [{"text": t} for t in documents(20)]
    spec = tmp_path / "spec.toml"
    spec.write_text('[[source]]\nname = "a"\nfiles = "a.jsonl"\n')
    write("a.jsonl", [*good, *({"txt": i} for i in range(25))])
    arguments = ("pack", spec, "--tokenizer", tokenizer_dir, "--out", tmp_path / "packed")
    with pytest.raises(EverloopError, match=r"a\.jsonl:21: column 'text' is missing"):
        run(*arguments)
    result = CliRunner().invoke(app, [*map(str, arguments), "--skip-bad-rows"])
    assert result.exit_code == 0
    assert result.stderr.count("left out: ") == 21
    assert "left out: 5 more rows" in result.stderr

"""What is odd about examples is found where they are read, and shown by `inspect`."""

from __future__ import annotations

import io

from rich.console import Console

from everloop.cli.inspection import show
from everloop.data.examination import examine
from everloop.data.inspection import inspect
from everloop.data.pack_options import PackOptions
from everloop.data.sources import adapted, single

ODD = [
    *({"text": f"The soup was good on day {i} of it.", "label": "positive"} for i in range(9)),
    {"text": "The soup was cold, and nobody came to ask.", "label": "negative"},
    {"text": "   ", "label": "positive"},
    {"text": "The soup was good on day 3 of it.", "label": "positive"},
    {"text": "今天的汤很好喝，服务也很周到，我们下次还会再来的。", "label": "positive"},
    {"text": "long " * 200_000, "label": "positive"},
    {"text": "The soup was good on day 4 of it.", "label": "mixed"},
    {"text": "The soup was good on day 5 of it.", "label": "mixed"},
]


def test_oddities_of_a_labelled_file_are_said_with_what_is_done(write) -> None:
    source = adapted(write("odd.jsonl", ODD), task="sentiment")
    found = {f.kind: f for f in examine((source,), PackOptions())["odd"]}
    assert {"long", "once", "copies", "contradiction", "mixed"} <= found.keys()
    assert found["once"].said == "Seen only once: label negative."
    assert "1,000," in found["long"].said
    assert found["contradiction"].said.startswith("2 rows have")
    assert found["copies"].said.startswith("1 row has")
    assert all(finding.done for finding in found.values())


def test_equal_labels_are_said(write) -> None:
    path = write("same.jsonl", [{"text": f"text {i} of some", "label": "x"} for i in range(8)])
    (finding,) = examine((adapted(path, task="topic"),), PackOptions())["same"]
    assert finding.kind == "constant"


def test_texts_and_good_examples_say_nothing(write) -> None:
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"How much is {i} and one?"},
                {"role": "assistant", "content": str(i + 1)},
            ]
        }
        for i in range(9)
    ]
    sources = (single(write("a.jsonl", chats)), single(write("b.jsonl", [{"text": "x"}] * 3)))
    assert examine(sources, PackOptions()) == {}


def test_inspect_shows_them(write) -> None:
    found = inspect(adapted(write("odd.jsonl", ODD), task="sentiment"))
    assert {finding.kind for finding in found.findings} >= {"long", "once", "copies"}
    console = Console(record=True, width=200, file=io.StringIO())
    show(found, console)
    assert "look: Seen only once: label negative." in console.export_text()

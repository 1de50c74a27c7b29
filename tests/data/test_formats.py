"""Rows of every layout become the same kind of example, or an error with file, line and repair."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from everloop.data.formats import to_messages
from everloop.data.instructions import INSTRUCTIONS
from everloop.data.layouts import UnusableFile, collect_labels, find_layout
from everloop.data.row import Row
from everloop.errors import DataError


def row(value: object) -> Row:
    return Row(value=value, path="data.jsonl", line=7)  # type: ignore[arg-type]


def turns(example) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in example.messages]


CHAT = [("user", "今天天气怎么样？"), ("assistant", "晴朗。")]


@pytest.mark.parametrize(
    ("value", "layout", "expected"),
    [
        (
            {"messages": [{"role": r, "content": c} for r, c in CHAT]},
            "messages",
            CHAT,
        ),
        (
            {"messages": [{"role": "developer", "content": "S"}, {"role": "user", "content": [
                {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": "c"}]},
            "messages",
            [("system", "S"), ("user", "ab"), ("assistant", "c")],
        ),
        (
            {"conversations": [{"from": "human", "value": CHAT[0][1]},
                               {"from": "gpt", "value": CHAT[1][1]}], "system": "S"},
            "sharegpt",
            [("system", "S"), *CHAT],
        ),
        (
            {"instruction": "Add.", "input": "1 2", "output": "3"},
            "alpaca",
            [("user", "Add.\n\n1 2"), ("assistant", "3")],
        ),
        (
            {"instruction": "Add.", "input": "", "output": "3", "system": "S",
             "history": [["q", "a"]]},
            "alpaca",
            [("system", "S"), ("user", "q"), ("assistant", "a"), ("user", "Add."),
             ("assistant", "3")],
        ),
        ({"question": "q?", "answer": "a"}, "question", [("user", "q?"), ("assistant", "a")]),
        ({"prompt": "q?", "response": "a"}, "question", [("user", "q?"), ("assistant", "a")]),
        (
            {"instruction": "Make it short.", "before": "a long text", "after": "text"},
            "edit",
            [("user", "Make it short.\n\na long text"), ("assistant", "text")],
        ),
    ],
)  # fmt: skip
def test_layouts_are_detected_and_become_messages(value, layout, expected) -> None:
    found = find_layout(row(value))
    assert found.name == layout
    assert turns(to_messages(row(value), found)) == expected


def test_prompt_and_completion_stay_raw() -> None:
    example = to_messages(row({"prompt": "Once", "completion": " upon a time", "lang": "en"}))
    assert example.is_raw
    assert (example.prompt, example.completion) == ("Once", " upon a time")
    assert example.to_json() == {
        "prompt": "Once", "completion": " upon a time", "task": "completion", "lang": "en",
    }  # fmt: skip
    assert to_messages(row({"prompt": "", "completion": "x"})).prompt == ""


def wordings(task: str, lang: str, **fields: str) -> set[str]:
    return {phrase.format(**fields) for phrase in INSTRUCTIONS[task][lang]}


def test_corrections_sentiment_and_passages_use_the_shared_wording() -> None:
    example = to_messages(row({"original": "我门走", "corrected": "我们走"}))
    assert example.messages[0]["content"] in wordings("correct", "zh", text="我门走")
    assert (example.task, example.lang) == ("correct", "zh")

    example = to_messages(row({"text": "很好吃", "label": "正面"}))
    assert example.messages[0]["content"] in wordings("sentiment", "zh", text="很好吃")
    assert (example.task, example.messages[1]["content"]) == ("sentiment", "正面")

    value = {"question": "When?", "passage": "It is at noon.", "answer": "noon"}
    example = to_messages(row(value))
    assert example.messages[0]["content"] in wordings(
        "answer", "en", passage=value["passage"], question="When?"
    )


def test_translations_go_both_ways_in_both_wordings() -> None:
    seen: Counter[str] = Counter()
    for i in range(200):
        pair = {"en": f"Hello {i}.", "zh": f"你好{i}。"}
        value = {"translation": pair} if i % 2 else pair
        example = to_messages(row(value))
        user, answer = (m["content"] for m in example.messages)
        source, target, code = (
            (pair["en"], pair["zh"], "zh") if answer == pair["zh"] else
            (pair["zh"], pair["en"], "en")
        )  # fmt: skip
        assert answer == target
        assert source in user
        assert target not in user
        worded = "zh" if re.search("[译成用]", user) else "en"
        seen[f"{code} in {worded}"] += 1
        assert to_messages(row(value)) == example  # a pure function of the row
    assert set(seen) == {"zh in zh", "zh in en", "en in zh", "en in en"}
    assert min(seen.values()) > 25


def test_the_canonical_wording_is_used_most() -> None:
    canonical = INSTRUCTIONS["correct"]["en"][0].split("{")[0]
    users = [
        to_messages(row({"before": f"teh {i}", "after": f"the {i}"})).messages[0]["content"]
        for i in range(300)
    ]
    share = sum(user.startswith(canonical) for user in users) / len(users)
    assert 0.5 < share < 0.75
    assert len({user.split("teh")[0] for user in users}) == len(INSTRUCTIONS["correct"]["en"])


def test_classification_offers_its_labels() -> None:
    rows = [row({"text": f"t{i}", "category": c}) for i, c in enumerate(["sport", "news"] * 3)]
    layout = find_layout(rows[0])
    with pytest.raises(DataError, match="not among the labels"):
        to_messages(rows[0], layout)
    labels = collect_labels(rows, layout)
    layout = find_layout(rows[0], labels=labels)
    example = to_messages(rows[0], layout)
    assert "news, sport" in example.messages[0]["content"]
    assert example.messages[1]["content"] == "sport"
    assert example.task == "classify"


def test_numbers_as_labels_get_names() -> None:
    layout = find_layout(
        row({"review": "不错", "stars": 1}),
        columns={"text": "review", "label": "stars"},
        labels={"0": "负面", "1": "正面"},
        task="sentiment",
    )
    example = to_messages(row({"review": "不错", "stars": 1}), layout)
    assert example.messages[1]["content"] == "正面"


def test_too_many_labels_are_an_error_of_the_file() -> None:
    rows = [row({"text": "t", "label": f"l{i}"}) for i in range(60)]
    with pytest.raises(UnusableFile, match=r"more than 50 different labels.*intent"):
        collect_labels(rows, find_layout(rows[0]))
    example = to_messages(rows[0], find_layout(rows[0], task="intent"))
    assert example.messages[1]["content"] == "l0"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"foo": 1, "bar": 2}, "columns: foo, bar. Name the columns"),
        ("plain text", "is plain text.*kind = \"text\""),
        ({"messages": []}, "not a list of messages"),
        ({"messages": "hi"}, "messages is text, not a list"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "nothing to learn.*\"assistant\""),
        ({"messages": [{"role": "bot", "content": "hi"}]}, r"messages\[0\].role is 'bot'. Use"),
        ({"messages": [{"role": "assistant", "content": ""}]}, "is empty: there is nothing"),
        ({"messages": [{"role": "assistant", "content": 3}]}, "is a number, not text"),
        ({"messages": ["hi"]}, r"messages\[0\] is text, not an object"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "aren't text"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "is a tool call"),
        ({"messages": [{"role": "assistant", "content": "x", "weight": 0}]}, "has weight 0"),
        ({"conversations": [{"from": "alien", "value": "x"}]}, "from is 'alien'. Use human"),
        ({"prompt": "x", "completion": " "}, "column 'completion' is empty"),
        ({"prompt": None, "completion": "y"}, "column 'prompt' is empty, not text"),
        ({"instruction": "x", "output": ["y"]}, "column 'output' is a list, not text"),
        ({"instruction": "x", "output": "y", "history": ["z"]}, "history"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_with_its_repair(value, message: str) -> None:
    with pytest.raises(DataError, match=rf"data\.jsonl:7: .*{message}"):
        to_messages(row(value))


def test_a_later_row_with_other_columns_is_named() -> None:
    layout = find_layout(row({"question": "q", "answer": "a"}))
    with pytest.raises(DataError, match="column 'answer' is missing; columns: question, reply"):
        to_messages(row({"question": "q", "reply": "a"}), layout)


def test_told_names_win_and_wrong_ones_are_refused() -> None:
    value = {"prompt": "q", "completion": "c", "other": "o"}
    layout = find_layout(row(value), columns={"answer": "other"})
    assert layout.name == "question"
    with pytest.raises(DataError, match="don't make a alpaca example"):
        find_layout(row(value), name="alpaca")
    with pytest.raises(DataError, match=r"layout 'x' is unknown\. Use one of messages"):
        find_layout(row(value), name="x")


def test_lone_surrogates_are_mended_everywhere() -> None:
    example = to_messages(row({"question": "a\ud83d", "answer": "b\udc00"}))
    example.text.encode()

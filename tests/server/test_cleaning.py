"""`clean`: what the model gets is clean, what was done is told, and nothing happens unasked."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.server.ask import chat, complete, error, stream

DIRTY = "<b>say:</b>Ｈello!!!!!!!"
CLEAN = "say:Hello!!!"


def test_a_conversation_is_cleaned_and_told(http: httpx2.Client) -> None:
    plain = chat(http, DIRTY)
    assert "everloop" not in plain
    body = chat(http, DIRTY, clean=True)
    assert body["choices"][0]["message"]["content"] != plain["choices"][0]["message"]["content"]
    assert (
        body["choices"][0]["message"]["content"]
        == chat(http, CLEAN)["choices"][0]["message"]["content"]
    )
    (entry,) = body["everloop"]["cleaned"]
    assert isinstance(entry.pop("language"), str)
    assert entry == {
        "param": "messages[0].content",
        "steps": ["markup", "width", "repeats"],
        "text": CLEAN,
    }
    assert "everloop" not in chat(http, DIRTY, clean=False)
    (entry,) = chat(http, CLEAN, clean=True)["everloop"]["cleaned"]
    assert entry["steps"] == []


def test_only_what_the_user_says_is_cleaned(http: httpx2.Client) -> None:
    turns = [{"role": role, "content": DIRTY} for role in ("system", "user", "assistant", "user")]
    body = {"model": "gpt-4", "messages": turns, "clean": ["markup"], "max_tokens": 5}
    told = http.post("/v1/chat/completions", json=body).json()["everloop"]["cleaned"]
    assert [entry["param"] for entry in told] == ["messages[1].content", "messages[3].content"]
    assert [entry["steps"] for entry in told] == [["markup"]] * 2


def test_prompts_are_cleaned_each(http: httpx2.Client) -> None:
    body = complete(http, [DIRTY, "say:b"], clean=True, echo=True)
    assert [c["text"].startswith(t) for c, t in zip(body["choices"], (CLEAN, "say:b"), strict=True)]
    told = body["everloop"]["cleaned"]
    assert [entry["param"] for entry in told] == ["prompt[0]", "prompt[1]"]
    assert [entry["text"] for entry in told] == [CLEAN, "say:b"]
    assert error(_post(http, {"prompt": [65, 66], "clean": True}))["param"] == "prompt"


def test_white_space_that_a_completion_goes_on_from_stays(http: httpx2.Client) -> None:
    (entry,) = complete(http, "Once  upon a time \n", clean=True)["everloop"]["cleaned"]
    assert entry["text"] == "Once upon a time \n"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": DIRTY}]}),
        ("/v1/completions", {"prompt": DIRTY}),
    ],
)
def test_a_stream_tells_at_its_beginning(http: httpx2.Client, path: str, body: Any) -> None:
    asked = {"model": "gpt-4", "stream": True, "clean": True, **body}
    events = stream(http, path, asked)
    assert events[0]["everloop"]["cleaned"][0]["text"] == CLEAN
    assert events[0]["choices"]
    assert not any("everloop" in event for event in events[1:])


@pytest.mark.parametrize(
    ("value", "code"),
    [("yes", "invalid_type"), (["polish"], "invalid_value"), ([1], "invalid_type"), (1, None)],
)
def test_what_is_no_step_is_refused(http: httpx2.Client, value: Any, code: str | None) -> None:
    found = error(_post(http, {"prompt": "a", "clean": value}))
    assert found["param"] == "clean"
    assert code in (None, found["code"])


def test_a_text_that_is_all_dirt_is_refused_before_anything_runs(http: httpx2.Client) -> None:
    found = error(_post(http, {"prompt": "<p></p>", "clean": True, "stream": True}))
    assert found["param"] == "prompt"


def test_the_text_of_an_edit_is_never_cleaned(http: httpx2.Client) -> None:
    body = {"model": "gpt-4", "instruction": "say:x", "input": DIRTY, "clean": True}
    found = error(http.post("/v1/edits", json=body))
    assert found["param"] == "clean"
    assert "stays as it was written" in found["message"]
    answer = http.post("/v1/edits", json={**body, "clean": False})
    assert answer.status_code == 200


def _post(http: httpx2.Client, body: dict[str, Any]) -> httpx2.Response:
    return http.post("/v1/completions", json={"model": "gpt-4", **body})

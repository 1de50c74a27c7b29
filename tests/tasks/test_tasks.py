"""What each task asks the model, and what it makes of the reply."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.data.instructions import NOT_IN_PASSAGE, instruction
from everloop.engine.interface import Chunk, GenerateRequest, Generation, Score, ScoreRequest
from everloop.errors import ContextLengthExceeded, InvalidRequest
from everloop.tasks import answer, classify, correct, sentiment, summarize, translate
from everloop.tasks.answer import support
from everloop.tasks.language import language_of
from tests.tasks.small_engine import SmallEngine, SmallGeneration, text_of

T = TypeVar("T")


class Says(SmallEngine):
    """Replies with a given text, and scores continuations by a given function."""

    def __init__(
        self, reply: str = "", score: Callable[[str, str], list[float]] | None = None
    ) -> None:
        super().__init__()
        self.reply, self.by = reply, score

    async def generate(self, request: GenerateRequest) -> Generation:
        self.check(request)
        self.started.append(request)
        return Saying(self, request)

    async def score(self, request: ScoreRequest) -> list[Score]:
        assert self.by is not None
        self.scored.append(request)
        found = [self.by(text_of(request.prompt), text_of(c)) for c in request.continuations]
        return [Score(tokens=(0,) * len(v), logprobs=tuple(v)) for v in found]


class Saying(SmallGeneration):
    async def __aiter__(self) -> AsyncIterator[Chunk]:
        assert isinstance(self.engine, Says)
        self.written = len(self.engine.reply)
        yield Chunk(text=self.engine.reply)
        self.end()
        yield Chunk(finish_reason="stop", usage=self.usage())


def run(call: Awaitable[T]) -> T:
    async def main() -> T:
        return await call

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("今天天气怎么样？", "zh"),
        ("How is the weather?", "en"),
        ("我用 iPhone 15 Pro 拍照", "zh"),
        ("The word 好 means good", "en"),
        ("", "en"),
        ("12345 !?", "en"),
        ("𠮷野家", "zh"),
    ],
)
def test_language_is_found_by_script(text: str, lang: str) -> None:
    assert language_of(text) == lang


def test_translate_goes_to_the_other_language() -> None:
    engine = Says(" Hello there.\n")
    reply = run(translate(engine, " 你好 "))
    assert reply.text == "Hello there."
    assert reply.finish_reason == "stop"
    assert engine.started[0].prompt[0]["content"] == instruction(
        "translate", "zh", text="你好", target="en"
    )
    assert engine.started[0].sampling.temperature == 0
    run(translate(engine, "Hello", target="zh"))
    assert engine.started[1].prompt[0]["content"] == instruction(
        "translate", "en", text="Hello", target="zh"
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"source": "en", "target": "en"}, "target"),
        ({"target": "fr"}, "target"),
        ({"source": "fr"}, "source"),
    ],
)
def test_translate_refuses_other_pairs(fields: dict[str, str], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        run(translate(Says(), "hello", **fields))
    assert caught.value.param == param


def test_empty_texts_are_refused_by_name() -> None:
    engine = Says("x", lambda prompt, label: [0.0])
    calls = {
        "text": [translate(engine, " "), correct(engine, ""), summarize(engine, "\n")],
        "question": [answer(engine, "", "passage")],
        "passage": [answer(engine, "question", " ")],
    }
    for param, asked in calls.items():
        for call in asked:
            with pytest.raises(InvalidRequest) as caught:
                run(call)
            assert caught.value.param == param
    assert engine.started == []


def test_correct_keeps_the_white_space_around() -> None:
    assert run(correct(Says("the cat"), "  teh cat\n")).text == "  the cat\n"


def test_correct_predicts_that_little_changes() -> None:
    engine = Says("the cat")
    run(correct(engine, " teh cat\n"))
    run(correct(engine, "teh cat", prediction="the cat"))
    run(summarize(engine, "teh cat"))
    assert [request.prediction for request in engine.started] == ["teh cat", "the cat", None]


def test_length_is_bound_by_the_context() -> None:
    engine = Says("short")
    run(summarize(engine, "word " * 20, max_tokens=7))
    assert engine.started[0].max_tokens == 7
    used = len(text_of(engine.started[0].prompt))
    engine.info = replace(engine.info, context_length=used + 3)
    run(summarize(engine, "word " * 20, max_tokens=7))
    assert engine.started[1].max_tokens == 3
    engine.info = replace(engine.info, context_length=used)
    with pytest.raises(ContextLengthExceeded):
        run(summarize(engine, "word " * 20, max_tokens=7))


def test_summarize_can_give_a_title() -> None:
    engine = Says("题目")
    run(summarize(engine, "很长的一段话", form="title"))
    assert engine.started[0].prompt[0]["content"] == instruction("title", "zh", text="很长的一段话")
    with pytest.raises(InvalidRequest) as caught:
        run(summarize(engine, "text", form="haiku"))  # type: ignore[arg-type]
    assert caught.value.param == "form"


def test_an_answer_from_the_passage_is_found() -> None:
    found = run(answer(Says("at nine"), "When does it open?", "The shop opens at nine."))
    assert found.found
    assert found.text == "at nine"
    assert found.support == 1


@pytest.mark.parametrize("said", ["In 1847 by Zhang Wei", "", "the passage does not say"])
def test_an_invented_answer_is_not_given(said: str) -> None:
    refused = run(answer(Says(said), "Who founded it?", "The shop opens at nine."))
    assert not refused.found
    assert refused.text == NOT_IN_PASSAGE["en"]


def test_the_refusal_comes_in_the_language_of_the_question() -> None:
    refused = run(answer(Says("资料中没有提到"), "几点关门？", "本店九点开门。"))
    assert not refused.found
    assert refused.text == NOT_IN_PASSAGE["zh"]


@given(st.text(), st.text())
def test_support_is_a_share_and_whole_for_copies(said: str, passage: str) -> None:
    assert 0 <= support(said, passage) <= 1
    assert support(said, said) in (0, 1)


def test_classify_gives_probabilities_best_first() -> None:
    odds = {"sports": 0.2, "politics": 0.7, "art": 0.1}
    engine = Says(score=lambda prompt, label: [math.log(odds[label])])
    chosen = run(classify(engine, "They voted.", list(odds), task="topic"))
    assert chosen.label == "politics"
    assert list(chosen.probabilities) == ["politics", "sports", "art"]
    assert chosen.probabilities == pytest.approx(odds)
    assert engine.scored[0].prompt[0]["content"] == instruction(
        "topic", "en", text="They voted.", labels=list(odds)
    )


def test_labels_are_named_only_where_the_instruction_has_a_place_for_them() -> None:
    engine = Says(score=lambda prompt, label: [-len(label)])
    run(classify(engine, "Win a prize now", ["spam", "ham"], task="spam"))
    assert engine.scored[0].prompt[0]["content"] == instruction(
        "spam", "en", text="Win a prize now"
    )
    with pytest.raises(InvalidRequest) as caught:
        run(classify(engine, "x", ["a", "b"], task="taste"))
    assert caught.value.param == "task"


def test_length_normalization_is_a_choice() -> None:
    engine = Says(score=lambda prompt, label: [-1.0] * len(label))
    assert run(classify(engine, "x", ["a", "bb"])).label == "a"
    even = run(classify(engine, "x", ["a", "bb"], per_token=True))
    assert even.probabilities == pytest.approx({"a": 0.5, "bb": 0.5})


def test_an_engine_that_cannot_score_is_asked_to_write() -> None:
    class Writes(Says):
        async def score(self, request: ScoreRequest) -> list[Score]:
            raise InvalidRequest("No scores after messages.", param="prompt")

    chosen = run(classify(Writes("It is Sports."), "x", ["art", "sports", "politics"]))
    assert (chosen.label, chosen.scored) == ("sports", False)
    assert chosen.probabilities == {"sports": 1, "art": 0, "politics": 0}
    assert run(classify(Writes("politic"), "x", ["art", "politics"])).label == "politics"
    assert run(classify(Writes(""), "x", ["art", "politics"])).label == "art"


@pytest.mark.parametrize("labels", [[], ["one"], ["same", "same"], ["a", " "]])
def test_unusable_labels_are_refused(labels: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        run(classify(Says(), "text", labels))
    assert caught.value.param == "labels"


@pytest.mark.parametrize(
    ("text", "likes"), [("很好吃", "正面"), ("难吃", "负面"), ("lovely", "positive")]
)
def test_sentiment_asks_in_the_language_of_the_text(text: str, likes: str) -> None:
    engine = Says(score=lambda prompt, label: [math.log(0.9 if label == likes else 0.1)])
    felt = run(sentiment(engine, text))
    assert felt.label == ("negative" if likes == "负面" else "positive")
    assert felt.score == pytest.approx(-0.8 if likes == "负面" else 0.8)

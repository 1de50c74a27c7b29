"""What a call means: each task is an async function over an `Engine`."""

from everloop.tasks.answer import Answer, answer
from everloop.tasks.ask import Reply
from everloop.tasks.choices import Choice, Choices, Collected
from everloop.tasks.classify import Classification, classify
from everloop.tasks.complete import complete
from everloop.tasks.converse import converse
from everloop.tasks.correct import correct
from everloop.tasks.edit import edit
from everloop.tasks.sentiment import Sentiment, sentiment
from everloop.tasks.summarize import summarize
from everloop.tasks.translate import translate

__all__ = [
    "Answer",
    "Choice",
    "Choices",
    "Classification",
    "Collected",
    "Reply",
    "Sentiment",
    "answer",
    "classify",
    "complete",
    "converse",
    "correct",
    "edit",
    "sentiment",
    "summarize",
    "translate",
]

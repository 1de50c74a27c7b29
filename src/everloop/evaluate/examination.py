"""A look at a suite's rows before the model is asked: what is odd, and what is done about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from everloop.data.findings import Examiner, Finding, Kind
from everloop.evaluate.rows import TRAIN, VALIDATION
from everloop.evaluate.suite import Row
from everloop.evaluate.suites import Measured

DONE: Final[Mapping[Kind, str]] = {
    "empty": "They are left out.",
    "long": "They are asked as they are; those that don't fit the model's context count as wrong.",
    "once": "It is kept: the baseline can hardly learn it, and macro-F1 weighs it like any other.",
    "constant": "It is measured, but a constant answer is always right: the number says nothing.",
    "across": "The baseline doesn't learn from them; the model may have.",
    "contradiction": "They are kept: no answer is right for all of them.",
    "mixed": "Each row is asked in the words of its `lang`.",
}
# Sets with one language in and another out, or with one question on many passages, are meant so.
_MEANT: Final[Mapping[str, tuple[Kind, ...]]] = {
    "translate": ("mixed", "contradiction"),
    "correct": ("contradiction",),
    "edit": ("contradiction",),
}


def examine(measured: Measured) -> list[Finding]:
    """Findings about all rows of the suite's file and the training rows of its baselines."""
    suite = measured.suite
    if not measured.every:
        return []
    examiner = Examiner()
    for side, name, rows in ((0, TRAIN, suite.every_train), (1, VALIDATION, measured.every)):
        for number, row in enumerate(rows, start=1):
            examiner.see(
                suite.text_of(row),
                _answer(row),
                label=str(row.get("label", "")),
                side=side,
                where=f"{name} row {number}",
            )
    left = {k: v for k, v in DONE.items() if k not in _MEANT.get(measured.task, ())}
    return examiner.findings(left)


def _answer(row: Row) -> str:
    """What is right, as text."""
    return str(row.get("label") or row.get("tgt") or row.get("answers") or "")

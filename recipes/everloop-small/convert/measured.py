"""Sets that are only measured on: no example of them is ever taught, so they tell what carries
over. Files that are missing are passed over; the README says where they come from."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from convert.common import Side, detokenize, load_rows, load_text

Measured = tuple[Side, str, dict[str, Any]]  # side, TASK.SOURCE, row

SAME = ("意思不同", "意思相同")  # BUSTM's labels 0 and 1
OCNLI = {"entailment": "蕴含", "neutral": "无关", "contradiction": "矛盾"}
SIDES: tuple[tuple[Side, str], ...] = (("train", "train"), ("validation", "dev"))


def rows(data: Path) -> Iterator[Measured]:
    """Rows for evaluation, and of some sets for its baselines."""
    yield from _bustm(data)
    yield from _ocnli(data)
    yield from _blimp(data)
    yield from _climp(data)
    yield from _jfleg(data)


def _pair(side: Side, source: str, row: dict[str, Any], label: str, labels: list[str]) -> Measured:
    found = {
        "task": "pairs",
        "lang": "zh",
        "source": source,
        "first": row["sentence1"],
        "second": row["sentence2"],
        "label": label,
        "labels": labels,
    }
    return side, f"pairs.{source}", found


def _bustm(data: Path) -> Iterator[Measured]:
    for side, part in SIDES:
        for name in _there(data, f"clue/fewclue_bustm_{part}_few_all.json*"):
            for row in load_rows(data, name):
                yield _pair(side, "bustm", row, SAME[int(row["label"])], list(SAME))


def _ocnli(data: Path) -> Iterator[Measured]:
    """Rows on whose label the annotators agreed."""
    for side, part in SIDES:
        for name in _there(data, f"clue/ocnli_{part}.json*"):
            for row in load_rows(data, name):
                if row["label"] in OCNLI:
                    yield _pair(side, "ocnli", row, OCNLI[row["label"]], list(OCNLI.values()))


def _grammar(source: str, lang: str, good: str, bad: str, phenomenon: str) -> Measured:
    row = {
        "task": "minimal-pairs",
        "lang": lang,
        "source": source,
        "good": good,
        "bad": bad,
        "phenomenon": phenomenon,
    }
    return "validation", f"minimal-pairs.{source}", row


def _blimp(data: Path) -> Iterator[Measured]:
    """The published files, one a paradigm; the phenomenon is their linguistic term."""
    for name in _there(data, "grammar/blimp/*.jsonl*"):
        for row in load_rows(data, name):
            term = row["linguistics_term"].replace("_", " ")
            yield _grammar("blimp", "en", row["sentence_good"], row["sentence_bad"], term)


def _climp(data: Path) -> Iterator[Measured]:
    """The published files: two lines a pair, the right one marked 1, or first without marks."""
    for name in _there(data, "grammar/climp/*.csv*"):
        phenomenon = Path(name).name.partition("_1000")[0].replace("_", " ")
        lines = [line for line in csv.reader(io.StringIO(load_text(data, name))) if line]
        marked = [(line[3], line[4]) for line in lines[1:] if len(line) > 4]
        plain = marked or [(line[0], "10"[i % 2]) for i, line in enumerate(lines)]
        for (first, mark), (second, other) in list(pairwise(plain))[::2]:
            if {mark, other} == {"0", "1"}:
                good, bad = (first, second) if mark == "1" else (second, first)
                yield _grammar("climp", "zh", good.strip(), bad.strip(), phenomenon)


def _jfleg(data: Path) -> Iterator[Measured]:
    """Learners' sentences, each with the corrections of four people."""
    for name in _there(data, "nc/editing/en_jfleg_dev.jsonl*"):
        for row in load_rows(data, name):
            right = list(dict.fromkeys(detokenize(text) for text in row["refs"]))
            found = {
                "task": "correct",
                "lang": "en",
                "source": "jfleg",
                "src": detokenize(row["src"]),
                "tgt": right[0],
                "references": right,
            }
            yield "validation", "correct.jfleg", found


def _there(data: Path, pattern: str) -> list[str]:
    return sorted(path.relative_to(data).as_posix() for path in data.glob(pattern))

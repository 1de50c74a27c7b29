"""Rows to measure on: `DIR/validation/TASK.SOURCE.jsonl`, and `DIR/train/TASK.SOURCE.jsonl` for
what the baselines learn from.

A row is a JSON object with `task`, `lang` (of the instruction) and what the task needs:

    sentiment topic classify spam intent    text, label, labels
    translate                               src, tgt, target (zh or en)
    correct summarize title                 src, tgt
    edit                                    instruction, src, tgt
    answer                                  passage, question, answers
    pairs                                   first, second, label, labels
    minimal-pairs                           good, bad, perhaps phenomenon
    chat service                            messages, reference

So a user's own rows are measured like the public ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everloop.data.files import sha256_file
from everloop.data.read import read
from everloop.errors import DataError
from everloop.evaluate.journal import digest

VALIDATION, TRAIN = "validation", "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSet:
    """The rows of one file. `files` are SHA-256 by name."""

    name: str
    task: str
    rows: Sequence[dict[str, Any]]
    files: dict[str, str]
    train_file: Path | None

    def train(self) -> list[dict[str, Any]]:
        """The training rows; none where the file is missing."""
        return [] if self.train_file is None else _objects(self.train_file)


def load(folder: Path, name: str) -> RowSet:
    """The rows in `validation/NAME.jsonl`. Raises NotFound, or DataError with file and line."""
    path, train = (folder / part / f"{name}.jsonl" for part in (VALIDATION, TRAIN))
    rows = _objects(path)
    there = [p for p in (path, train) if p.exists()]
    return RowSet(
        name=name,
        task=rows[0]["task"],
        rows=rows,
        files={p.relative_to(folder).as_posix(): sha256_file(p) for p in there},
        train_file=train if train in there else None,
    )


def available(folder: Path) -> list[str]:
    """The sets that `folder` has rows of."""
    return sorted(path.stem for path in (folder / VALIDATION).glob("*.jsonl"))


def chosen(rows: Iterable[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """`limit` different rows (0: all) in an order that depends on their content alone, so that
    the rows of a smaller limit are among those of a larger one."""
    different = {digest(row): row for row in rows}
    ordered = [different[name] for name in sorted(different)]
    return ordered[:limit] if limit else ordered


def check(rows: RowSet, needs: Sequence[str]) -> None:
    """Raises DataError for the first row of another task or without a needed field."""
    path = f"{VALIDATION}/{rows.name}.jsonl"
    for row in rows.rows:
        if row["task"] != rows.task:
            raise DataError(
                f"has rows of {rows.task} and of {row['task']}.",
                path=path,
                repair="Write one file for each task.",
            )
        for name in needs:
            if name not in row:
                raise DataError(
                    f"a row of task {rows.task} has no field {name!r}: {str(row)[:80]}…",
                    path=path,
                    repair=f"Rows of this task need {', '.join(needs)}.",
                )


def _objects(path: Path) -> list[dict[str, Any]]:
    found = []
    for row in read(path, format="jsonl"):
        if not isinstance(row.value, dict) or not {"task", "lang"} <= row.value.keys():
            raise DataError(
                "is no row to measure on: it has no task and lang.",
                path=str(path),
                line=row.line,
                repair='Write objects such as {"task": "topic", "lang": "en", …}.',
            )
        found.append(row.value)
    return found

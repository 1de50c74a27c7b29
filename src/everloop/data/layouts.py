"""Which layout the rows of a file have: told, or detected by the names of their columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from everloop.data.row import Row
from everloop.errors import DataError

# Parts of each layout and the column names that are taken for them, the usual one first; a part
# with "?" may be missing. The order is the order of detection.
LAYOUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "messages": {"messages": ("messages",)},
    "sharegpt": {"conversations": ("conversations", "conversation"), "system?": ("system",)},
    "completion": {"prompt": ("prompt",), "completion": ("completion",)},
    "alpaca": {
        "instruction": ("instruction",),
        "output": ("output", "response"),
        "input?": ("input",),
        "system?": ("system",),
        "history?": ("history",),
    },
    "question": {
        "question": ("question", "query", "prompt"),
        "answer": ("answer", "response", "reply"),
        "passage?": ("passage", "context"),
    },
    "translation": {"en": ("en", "english"), "zh": ("zh", "chinese")},
    "edit": {
        "before": ("before", "original", "incorrect"),
        "after": ("after", "corrected", "edited", "correct"),
        "instruction?": ("instruction",),
    },
    "classification": {
        "text": ("text", "sentence", "content", "review", "title", "comment"),
        "label": ("label", "category", "class", "intent", "sentiment"),
    },
}
MAX_LABELS = 50


class UnusableFile(DataError):
    """Not one row but the whole file can't be used as it was told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A layout and the column of each of its parts."""

    name: str
    columns: Mapping[str, str]
    task: str = ""
    lang: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the values of a label column are called, in the order in which they are offered."""


def find_layout(
    row: Row,
    *,
    name: str | None = None,
    columns: Mapping[str, str] | None = None,
    task: str = "",
    lang: str = "",
    labels: Mapping[str, str] | None = None,
) -> Layout:
    """The layout of rows like this one. `name` and `columns` (part to column) override what would
    be detected; DataError names the columns seen if nothing fits."""
    value = columns_of(row)
    told = dict(columns or {})
    if name is not None and name not in LAYOUTS:
        raise bad_row(row, f"layout {name!r} is unknown.", f"Use one of {', '.join(LAYOUTS)}.")
    for candidate in [name] if name else LAYOUTS:
        found = _match(LAYOUTS[candidate], value, told)
        if found is not None:
            return Layout(name=candidate, columns=found, task=task, lang=lang, labels=labels or {})
    wanted = LAYOUTS[name] if name else None
    parts = (
        ", ".join(wanted) if wanted else "for example: messages; prompt, completion; text, label"
    )
    raise bad_row(
        row,
        f"its columns don't make {'a ' + name if name else 'any known'} example; columns: "
        f"{', '.join(map(str, value))}.",
        f"Name the columns ({parts}), or say which plays which part: "
        'columns = {text = "…", label = "…"}.',
    )


def _match(
    parts: Mapping[str, tuple[str, ...]], value: Mapping[str, Any], told: Mapping[str, str]
) -> dict[str, str] | None:
    found = {}
    for part, names in parts.items():
        key = part.removesuffix("?")
        column = next((n for n in ([told[key]] if key in told else names) if n in value), None)
        if column is not None:
            found[key] = column
        elif key == part:
            return None
    # A part told that this layout doesn't have means another layout.
    return found if set(told) <= set(found) else None


def collect_labels(rows: Iterable[Row], layout: Layout) -> dict[str, str]:
    """The distinct labels of a classification, sorted, each called as it is; UnusableFile if
    there are too many to offer in a prompt."""
    column = layout.columns["label"]
    found: set[str] = set()
    for row in rows:
        value = columns_of(row).get(column)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            found.add(str(value).strip())
        if len(found) > MAX_LABELS:
            raise UnusableFile(
                f"column {column!r} has more than {MAX_LABELS} different labels.",
                path=row.path,
                repair='Set task = "intent" to ask without listing them, or write messages.',
            )
    return {label: label for label in sorted(found - {""})}


def columns_of(row: Row) -> Mapping[str, Any]:
    """The row's columns; a text row has none."""
    if isinstance(row.value, str):
        raise bad_row(
            row,
            "is plain text, not an example.",
            'Use kind = "text", or give rows with columns, such as {"messages": […]}.',
        )
    nested = row.value.get("translation")
    return nested if isinstance(nested, dict) and len(row.value) <= 2 else row.value


def bad_row(row: Row, message: str, repair: str) -> DataError:
    """The error for a row that can't become an example."""
    return DataError(message, path=row.path, line=row.line, repair=repair)

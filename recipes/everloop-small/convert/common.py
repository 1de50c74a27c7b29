"""What all converters share: reading given files, chance that depends on content alone, the
train/validation split, and the shape of a row."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from everloop.data.files import chunks
from everloop.data.instructions import INSTRUCTIONS, instruction
from everloop.data.split import document_hash, mix, share, split_of

VALIDATION_FRACTION = 0.08
CANONICAL_FRACTION = 0.55  # of the rows of a task use the phrasing that `tasks` uses

Messages = list[dict[str, str]]
Side = Literal["train", "validation"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One example: on the train side it becomes `messages`, on the other side `fields`.

    `fields` is what an evaluation needs (see the README); empty if there is nothing to measure.
    """

    task: str
    lang: str
    source: str
    side: Side
    messages: Messages
    fields: dict[str, Any] = field(default_factory=dict)


def load_text(data: Path, name: str) -> str:
    """A given file as text; compressed files are unpacked."""
    return b"".join(chunks(data / name)).decode("utf-8")


def load_lines(data: Path, name: str) -> Iterator[str]:
    """Lines that end with "\\n" only: texts contain U+2028 and U+0085."""
    return (line for line in load_text(data, name).split("\n") if line.strip())


def load_rows(data: Path, name: str) -> Iterator[dict[str, Any]]:
    """Rows of a .jsonl file."""
    return (json.loads(line) for line in load_lines(data, name))


def load_json(data: Path, name: str) -> Any:
    """A .json file that is one value."""
    return json.loads(load_text(data, name))


def normal(text: str) -> str:
    """Letters and digits only, in one width and case: what makes two texts the same to us."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).lower() if c.isalnum())


def side(key: str) -> Side:
    """Which side of the split a text is on; the same for every source that contains it."""
    is_validation = split_of(document_hash(normal(key)), VALIDATION_FRACTION)
    return "validation" if is_validation else "train"


def chance(text: str, salt: int = 0) -> float:
    """A number in [0, 1) that depends on the text alone; another salt, another number."""
    return share(mix(document_hash(text), salt + 1))


def pick(options: Sequence[T], text: str, salt: int = 0) -> T:
    """One of the options, by the text's chance."""
    return options[int(chance(text, salt) * len(options))]


def shuffled(options: Sequence[T], text: str, salt: int = 0) -> list[T]:
    """The options in an order that depends on the text alone."""
    order = sorted(range(len(options)), key=lambda i: chance(f"{i} {text}", salt))
    return [options[i] for i in order]


def ask(task: str, lang: str, by: str, /, **fields: str | Sequence[str]) -> str:
    """The instruction in a phrasing chosen by a text: the canonical one most often."""
    others = len(INSTRUCTIONS[task][lang]) - 1
    at = chance(by, 101)
    variant = 0
    if others and at >= CANONICAL_FRACTION:
        variant = 1 + int((at - CANONICAL_FRACTION) / (1 - CANONICAL_FRACTION) * others)
    return instruction(task, lang, variant, **fields)


def turns(*contents: str) -> Messages:
    """Messages of user and assistant in turn, the user first."""
    return [
        {"role": "assistant" if i % 2 else "user", "content": content}
        for i, content in enumerate(contents)
    ]


def cut(text: str, limit: int) -> str:
    """At most `limit` characters, ended after a sentence if one ends in the second half."""
    if len(text) <= limit:
        return text
    head = text[:limit]
    ends = [m.end() for m in re.finditer(r"[。！？；]|[.!?](?=\s)", head)]
    if ends and ends[-1] >= limit // 2:
        return head[: ends[-1]].rstrip()
    if " " in head[limit // 2 :]:
        return head[: head.rindex(" ")].rstrip()
    return head


_SPACES_BEFORE = re.compile(r"\s+([,.!?;:%)\]}]|'(?:s|t|re|ve|ll|d|m)\b|n't\b)")
_SPACES_AFTER = re.compile(r"([(\[{$#])\s+")


def detokenize(text: str) -> str:
    """English with its spaces around punctuation removed, as people write it."""
    text = text.replace("``", '"').replace("''", '"').replace("-lrb-", "(").replace("-rrb-", ")")
    text = _SPACES_AFTER.sub(r"\1", _SPACES_BEFORE.sub(r"\1", text))
    text = re.sub(r'"\s*([^"]*?)\s*"', r'"\1"', text)
    return re.sub(r"\s+", " ", text).strip()


_CJK = re.compile(r"[\u4e00-\u9fff]")


def chinese_share(text: str) -> float:
    """Share of Chinese characters among those that aren't spaces."""
    letters = [c for c in text if not c.isspace()]
    return len(_CJK.findall(text)) / max(len(letters), 1)

"""What is odd about rows of a task, to be said before anything is trained or measured on them.

The examiner only counts and keeps hashes, so that files of any size pass through it. What is done
about a finding is up to who uses the rows, and is said with it.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from everloop.data.language import UNKNOWN, language
from everloop.data.split import document_hash

Kind = Literal["empty", "long", "once", "constant", "copies", "across", "contradiction", "mixed"]

LONG: Final = 100_000  # characters of one row
MIXED: Final = 0.05  # share of another language that is worth a word
TELLING: Final = 20  # characters below which a text doesn't tell its language
NAMED: Final = 5  # labels named in a finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is odd, and what is done about it, in a sentence each."""

    kind: Kind
    said: str
    done: str

    def __str__(self) -> str:
        return f"{self.said} {self.done}"


class Examiner:
    """Sees every row once. Labels matter where a row has one."""

    def __init__(self) -> None:
        self.rows = 0
        self.empty: list[str] = []
        self.empty_rows = 0
        self.long = self.longest = 0
        self.labels: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        self.copies = self.across = self.contradictions = 0
        self._seen: dict[int, tuple[int, int]] = {}  # text: sides as bits, hash of the answer

    def see(
        self, text: str, answer: str = "", *, label: str = "", side: int = 0, where: str = ""
    ) -> None:
        """One row: what is asked, what is right, its label if it has one, and which side of the
        split it is on (0 train, 1 validation)."""
        self.rows += 1
        stripped = text.strip()
        if not stripped:
            self.empty_rows += 1
            if where and len(self.empty) < NAMED:
                self.empty.append(where)
            return
        if len(text) > LONG:
            self.long += 1
            self.longest = max(self.longest, len(text))
        if label:
            self.labels[label] += 1
        if len(stripped) >= TELLING and (spoken := language(stripped)) != UNKNOWN:
            self.languages[spoken] += 1
        self._compare(key(stripped), document_hash(answer), 1 << side)

    def _compare(self, text: int, answer: int, side: int) -> None:
        sides, known = self._seen.get(text, (0, answer))
        if known != answer:
            self.contradictions += 1
        elif sides & side:
            self.copies += 1
        if sides and not sides & side:
            self.across += 1
        self._seen[text] = (sides | side, known)

    def findings(self, done: Mapping[Kind, str]) -> list[Finding]:
        """What was found, of the kinds that `done` has an answer to."""
        told: dict[Kind, str] = {}
        if self.empty_rows:
            places = f" ({', '.join(self.empty)})" if self.empty else ""
            told["empty"] = f"{_rows(self.empty_rows)} no text{places}."
        if self.long:
            told["long"] = (
                f"{_rows(self.long)} more than {LONG:,} characters, up to {self.longest:,}."
            )
        once = sorted(label for label, rows in self.labels.items() if rows == 1)
        if once and len(self.labels) > 1:
            more = f" and {len(once) - NAMED} more" if len(once) > NAMED else ""
            told["once"] = f"Seen only once: label {', '.join(once[:NAMED])}{more}."
        if len(self.labels) == 1 and self.labels.total() > 1:
            told["constant"] = f"All {self.rows:,} rows have the label {next(iter(self.labels))}."
        if self.copies:
            told["copies"] = f"{_rows(self.copies)} a text and answer that came before."
        if self.across:
            told["across"] = f"{_rows(self.across)} a text that is on both sides of the split."
        if self.contradictions:
            told["contradiction"] = f"{_rows(self.contradictions)} a known text, another answer."
        total = self.languages.total()
        common = [(lang, n / total) for lang, n in self.languages.most_common()]
        parts = [f"{lang} {part:.0%}" for lang, part in common if part >= MIXED]
        if len(parts) > 1:
            told["mixed"] = f"Languages: {', '.join(parts)}."
        return [
            Finding(kind=kind, said=said, done=done[kind])
            for kind, said in told.items()
            if kind in done
        ]


def key(text: str) -> int:
    """The text's identity, whatever its width, case and white space."""
    return document_hash(" ".join(unicodedata.normalize("NFKC", text).casefold().split()))


def _rows(count: int) -> str:
    return f"{count:,} row has" if count == 1 else f"{count:,} rows have"

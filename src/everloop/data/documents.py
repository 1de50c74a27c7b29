"""Rows of a source on their way to being documents: refused, left out, or let through."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass

from everloop.data import source as specs
from everloop.data.clean import clean
from everloop.data.counts import Counts
from everloop.data.dedup import Deduplicator
from everloop.data.formats import Example, to_messages
from everloop.data.language import language
from everloop.data.layouts import Layout, UnusableFile, collect_labels, find_layout
from everloop.data.row import Row
from everloop.data.source import Source
from everloop.data.split import document_hash, split_of
from everloop.errors import DataError


@dataclass(frozen=True, slots=True)
class Document:
    """What was let through: a text, or an example with its text."""

    text: str
    example: Example | None
    value: int
    """Its hash: what the split and every other decision depend on."""
    split: int
    """0 train, 1 validation."""
    row: Row

    def error(self, message: str, repair: str) -> DataError:
        """An error that says where the document is from."""
        return DataError(message, path=self.row.path, line=self.row.line, repair=repair)


class Intake:
    """Decides about the rows of one source, in order. The decisions depend on the rows and the
    texts seen before, never on how rows are batched."""

    def __init__(
        self,
        source: Source,
        counts: Counts,
        seen: Deduplicator,
        refuse: Callable[[DataError], None],
        *,
        size: int,
        seed: int,
        val_fraction: float,
    ) -> None:
        self.source, self.counts, self.seen, self.refuse = source, counts, seen, refuse
        self.part = specs.subset_part(source, size)
        self.seed, self.val_fraction = seed, val_fraction
        self._layout: Layout | None = None

    @property
    def layout_name(self) -> str:
        """The layout of the example rows, "" before one was read."""
        return self._layout.name if self._layout else ""

    def accept(self, candidates: list[Document]) -> list[Document]:
        """The candidates (from `read`) that are no copies."""
        if self.source.dedup == "none":
            verdicts = [""] * len(candidates)
        else:
            verdicts = [
                *self.seen.check(
                    [d.value for d in candidates],
                    [_own_text(d) for d in candidates],
                    near=self.source.dedup == "near",
                )
            ]
        self.counts.exact_duplicates += verdicts.count("exact")
        self.counts.near_duplicates += verdicts.count("near")
        accepted = [d for d, verdict in zip(candidates, verdicts, strict=True) if not verdict]
        for document in accepted:
            lang = self.source.lang or (document.example.lang if document.example else "")
            self.counts.languages[lang or language(document.text)] += 1
        return accepted

    def read(self, row: Row) -> Document | None:
        """The row as a candidate, or None when it is refused, not chosen or too short."""
        counts, source = self.counts, self.source
        counts.rows += 1
        try:
            example = self._example(row) if source.kind == "examples" else None
            raw = example.text if example else specs.text_of(source, row)
        except UnusableFile:
            raise
        except DataError as error:
            self.refuse(error)
            return None
        counts.text_bytes += specs.length(raw)
        if self.part < 1:
            full = counts.subset_bytes >= source.max_bytes
            if full or not specs.chosen(document_hash(raw), self.part, self.seed):
                counts.not_in_subset += 1
                return None
            counts.subset_bytes += specs.length(raw)
        text = raw if example else clean(raw, source.clean, counts.cleaned)
        if len(text) < max(1, source.min_chars):
            counts.too_short += 1
            return None
        identity = (
            json.dumps(example.to_json(), ensure_ascii=False, sort_keys=True) if example else text
        )
        value = document_hash(identity, self.seed)
        return Document(text, example, value, split_of(value, self.val_fraction), row)

    def _example(self, row: Row) -> Example:
        if self._layout is None:
            layout = _find_layout(self.source, row)
            self._layout = _with_labels(self.source, layout)
        return to_messages(row, self._layout, self.source.clean)


def _own_text(document: Document) -> str:
    """What near copies are told by: of an example its row's own words, without those of the
    instruction, which many share."""
    return "\n".join(specs.strings(document.row.value)) if document.example else document.text


def _find_layout(source: Source, row: Row) -> Layout:
    return find_layout(
        row,
        name=source.layout,
        columns=source.columns,
        task=source.task,
        lang=source.lang,
        labels=source.labels,
    )


def _with_labels(source: Source, layout: Layout) -> Layout:
    """Labels are collected where a classification offers them and none are named."""
    listed = layout.name == "classification" and layout.task not in ("sentiment", "spam", "intent")
    if not listed or layout.labels:
        return layout
    rows = (r for path in source.files for r in specs.rows(source, path, on_refusal=_ignore))
    return dataclasses.replace(layout, labels=collect_labels(rows, layout))


def _ignore(error: DataError) -> None:
    """Reported where the row is used."""

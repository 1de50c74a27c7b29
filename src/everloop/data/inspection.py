"""A look at one file before anything is trained on it: rows, languages, lengths, copies, rows that
can't be used and how to repair them, and for examples which tokens will be learnt."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from everloop.data import source as specs
from everloop.data.counts import Counts
from everloop.data.dedup import Deduplicator
from everloop.data.documents import Document, Intake
from everloop.data.encode import Encoder
from everloop.data.examination import DONE, see
from everloop.data.findings import Examiner, Finding
from everloop.data.read import format_of
from everloop.data.source import Source
from everloop.data.sources import single
from everloop.errors import DataError

PREVIEWS = 3
MAX_REFUSED = 20
_BATCH_ROWS = 512
_QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that can't be used."""

    line: int | None
    reason: str
    repair: str


@dataclass(slots=True, kw_only=True)
class Inspection:
    """What was found; lengths are quantiles over documents."""

    path: str
    format: str
    kind: str
    layout: str
    columns: list[str]
    rows: int = 0
    documents: int = 0
    bytes: int = 0
    languages: dict[str, int] = field(default_factory=dict)
    tasks: dict[str, int] = field(default_factory=dict)
    chars: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    total_tokens: int = 0
    target_tokens: int = 0
    bytes_per_token: float = 0.0
    exact_copies: int = 0
    near_copies: int = 0
    too_short: int = 0
    cleaned: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    previews: list[list[tuple[str, bool]]] = field(default_factory=list)
    """The first documents as (text, is target) runs."""


def inspect(
    source: Source | Path, *, tokenizer: Path | None = None, max_rows: int = 0, max_tokens: int = 0
) -> Inspection:
    """Look at a source, or a file as it would be used without a spec.

    Token counts and the exact target mask need `tokenizer`, a folder with tokenizer.json (for
    examples also a chat template); `max_rows` reads only the beginning (0: all), `max_tokens`
    refuses longer examples (0: none).
    """
    if isinstance(source, Path):
        source = single(source)
    return _Inspector(source, tokenizer, max_rows, max_tokens or sys.maxsize).run()


class _Inspector:
    def __init__(
        self, source: Source, tokenizer: Path | None, max_rows: int, max_tokens: int
    ) -> None:
        self.source = replace(source, dedup="near", max_bytes=0)
        self.max_rows = max_rows
        self.counts = Counts()
        self.examiner = Examiner()
        self.chars: list[int] = []
        self.tokens: list[int] = []
        path = source.files[0]
        self.found = Inspection(
            path=str(path),
            format=source.format or format_of(path),
            kind=source.kind,
            layout="",
            columns=[],
        )
        self.encoder = Encoder(tokenizer, max_tokens) if tokenizer else None
        self.intake = Intake(
            self.source,
            self.counts,
            Deduplicator(),
            self.refuse,
            size=0,
            seed=0,
            val_fraction=0.0,
        )

    def run(self) -> Inspection:
        for candidates in self._batches():
            documents = self.intake.accept(candidates)
            self.chars += [len(d.text) for d in documents]
            self._encode(documents)
            for document in documents:
                self._tally(document)
        self._conclude()
        return self.found

    def refuse(self, error: DataError) -> None:
        self.counts.refused += 1
        if len(self.found.refusals) < MAX_REFUSED:
            self.found.refusals.append(Refusal(error.line, error.reason, error.repair))

    def _batches(self) -> Iterator[list[Document]]:
        batch: list[Document] = []
        read = 0
        for path in self.source.files:
            rows = specs.rows(
                self.source, path, on_note=self.found.notes.append, on_refusal=self.refuse
            )
            for row in rows:
                if not self.found.columns and isinstance(row.value, dict):
                    self.found.columns = [str(name) for name in row.value]
                read += 1
                if (document := self.intake.read(row)) is not None:
                    see(self.examiner, document, layout=self.intake.layout_name)
                    batch.append(document)
                if len(batch) >= _BATCH_ROWS or read == self.max_rows:
                    yield batch
                    batch = []
                if read == self.max_rows:
                    self.found.notes.append(f"Only the first {read} rows were read.")
                    return
        if batch:
            yield batch

    def _tally(self, document: Document) -> None:
        found = self.found
        found.documents += 1
        found.bytes += specs.length(document.text)
        if document.example:
            task = document.example.task
            found.tasks[task] = found.tasks.get(task, 0) + 1

    def _encode(self, documents: list[Document]) -> None:
        if self.encoder is None:
            for document in documents[: PREVIEWS - len(self.found.previews)]:
                self.found.previews.append(_roles(document))
        elif self.source.kind == "examples":
            for _, ids, mask in self.encoder.examples(documents, self.refuse):
                self.tokens.append(len(ids))
                self.found.target_tokens += int(mask.sum())
                if len(self.found.previews) < PREVIEWS:
                    self.found.previews.append(self._runs(ids.tolist(), mask.tolist()))
        else:
            for document, pieces in self.encoder.texts(documents):
                self.tokens.append(sum(map(len, pieces)))
                if len(self.found.previews) < PREVIEWS:
                    self.found.previews.append([(document.text, True)])

    def _runs(self, ids: list[int], mask: list[int]) -> list[tuple[str, bool]]:
        assert self.encoder is not None
        borders = [0, *(i for i in range(1, len(ids)) if mask[i] != mask[i - 1]), len(ids)]
        return [
            (self.encoder.tokenizer.decode(ids[start:end]), bool(mask[start]))
            for start, end in itertools.pairwise(borders)
        ]

    def _conclude(self) -> None:
        found, counts = self.found, self.counts
        found.findings = self.examiner.findings(DONE)
        found.layout = self.intake.layout_name
        found.rows = counts.rows
        found.languages = dict(counts.languages.most_common())
        found.cleaned = dict(counts.cleaned)
        found.exact_copies, found.near_copies = counts.exact_duplicates, counts.near_duplicates
        found.too_short, found.refused = counts.too_short, counts.refused
        found.chars = _quantiles(self.chars)
        found.tokens = _quantiles(self.tokens)
        found.total_tokens = sum(self.tokens)
        if self.source.kind == "text":
            found.target_tokens = found.total_tokens
        if found.total_tokens:
            found.bytes_per_token = round(found.bytes / found.total_tokens, 3)


def _roles(document: Document) -> list[tuple[str, bool]]:
    """The runs as far as they are known without a tokenizer."""
    example = document.example
    if example is None:
        return [(document.text, True)]
    if example.is_raw:
        return [(example.prompt, False), (example.completion, True)]
    return [(f"{m['content']}\n", m["role"] == "assistant") for m in example.messages]


def _quantiles(values: Sequence[int]) -> dict[str, Any]:
    if not values:
        return {}
    found = np.quantile(values, list(_QUANTILES.values()), method="nearest")
    return {name: int(value) for name, value in zip(_QUANTILES, found, strict=True)}

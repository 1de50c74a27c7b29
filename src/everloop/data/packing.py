"""The run behind `pack`: read, decide, write, make durable, go on after a kill."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from everloop.data import source as specs
from everloop.data.counts import Counts, Progress
from everloop.data.dedup import Deduplicator
from everloop.data.documents import Document, Intake
from everloop.data.encode import Encoder, Ids, Mask, chosen_for_fim
from everloop.data.encoding import Note
from everloop.data.files import sha256_file, sync_directory, write_atomic
from everloop.data.noise.examples import with_noise
from everloop.data.pack_options import PackOptions
from everloop.data.row import Refuse, Row
from everloop.data.shards import (
    FORMAT_VERSION,
    MANIFEST,
    ShardWriter,
    read_manifest,
    shard_path,
    token_type,
)
from everloop.data.source import Source
from everloop.data.split import SPLITS, mix, share
from everloop.errors import DataError

_BATCH_CHARS = 1 << 20
_BATCH_ROWS = 4096
_NOISE_SALT = 48
STATE = "state.json"
JOURNAL = "seen.journal"


class Packing:
    """One run, from its last durable point to the manifest."""

    on_progress: Callable[[Progress], None] | None = None
    on_note: Note | None = None
    on_refusal: Refuse | None = None
    checkpoint_seconds = 10.0

    def __init__(
        self,
        sources: tuple[Source, ...],
        encoder: Encoder,
        partial: Path,
        options: PackOptions,
        fingerprint: str,
        identity: dict[str, Any],
    ) -> None:
        self.sources, self.encoder, self.partial = sources, encoder, partial
        self.options, self.fingerprint, self.identity = options, fingerprint, identity
        self.vocab_size = encoder.tokenizer.vocab_size
        self.dtype = token_type(self.vocab_size)
        self.masked = any(source.kind == "examples" for source in sources)
        self.writers = [
            ShardWriter(
                partial,
                split,
                dtype=self.dtype,
                masked=self.masked,
                shard_tokens=options.shard_tokens,
            )
            for split in SPLITS
        ]
        self.seen = Deduplicator()
        self.counts = [Counts() for _ in sources]
        self.source = self.file = self.row = 0  # the next row to read
        self.journal_bytes = 0
        self.sizes: list[int] = []
        self.started = self.saved = time.monotonic()
        self.resumed_bytes = 0

    def run(self) -> dict[str, Any]:
        """Do what is left to do."""
        self._resume()
        if not self.sizes:
            self.sizes = [specs.size_of(source) for source in self.sources]
            self._checkpoint()
        while self.source < len(self.sources):
            source = self.sources[self.source]
            while self.file < len(source.files):
                self._pack_file(source, source.files[self.file])
                self.file, self.row = self.file + 1, 0
            self.source, self.file = self.source + 1, 0
        return self._finish()

    def _pack_file(self, source: Source, path: Path) -> None:
        counts = self.counts[self.source]
        skipping = self.row > 0

        def refuse(error: DataError) -> None:
            if skipping:  # counted before the interruption
                return
            if self.on_refusal is None:
                raise error
            counts.refused += 1
            self.on_refusal(error)

        intake = Intake(
            source,
            counts,
            self.seen,
            refuse,
            size=self.sizes[self.source],
            seed=self.options.seed,
            val_fraction=self.options.val_fraction,
        )
        rows = specs.rows(source, path, on_note=self.on_note, on_refusal=refuse)
        for _ in islice(rows, self.row):
            pass
        skipping = False
        for number, candidates in _batches(rows, intake):
            documents = intake.accept(candidates)
            if source.kind == "examples":
                chosen = [_with_noise(document, counts, source.noise) for document in documents]
                self._write_examples(chosen, counts, refuse)
            else:
                self._write_texts(documents, counts, source.fim_rate)
            self.row += number
            self._report(source)
            if time.monotonic() - self.saved > self.checkpoint_seconds:
                self._checkpoint()

    def _write_texts(self, documents: list[Document], counts: Counts, fim_rate: float) -> None:
        pieces: list[tuple[Document, Ids]] = []
        rewrite: list[tuple[int, int]] = []
        for document, cut in self.encoder.texts(documents):
            for number, piece in enumerate(cut):
                value = chosen_for_fim(document, number, fim_rate)
                if value is not None:
                    rewrite.append((len(pieces), value))
                pieces.append((document, piece))
            self._count(document, counts, len(cut))
        if rewrite:
            replaced = self.encoder.fill_in_middle([(pieces[i][1], v) for i, v in rewrite])
            for (i, _), ids in zip(rewrite, replaced, strict=True):
                if ids is not None:
                    pieces[i] = (pieces[i][0], ids)
                    counts.fim_pieces += 1
        for document, ids in pieces:
            self._add(document, counts, ids, None)

    def _write_examples(
        self, documents: list[Document], counts: Counts, refuse: Callable[[DataError], None]
    ) -> None:
        for document, ids, mask in self.encoder.examples(documents, refuse):
            self._count(document, counts, 1)
            self._add(document, counts, ids, mask)

    def _count(self, document: Document, counts: Counts, pieces: int) -> None:
        counts.documents[document.split] += 1
        counts.pieces[document.split] += pieces
        counts.bytes[document.split] += specs.length(document.text)

    def _add(self, document: Document, counts: Counts, ids: Ids, mask: Mask | None) -> None:
        self.writers[document.split].add(ids, mask, self.source)
        counts.tokens[document.split] += len(ids)
        counts.targets[document.split] += len(ids) if mask is None else int(mask.sum())

    def _report(self, source: Source) -> None:
        if self.on_progress is None:
            return
        self.on_progress(
            Progress(
                source=source.name,
                text_bytes=sum(c.text_bytes for c in self.counts),
                total_bytes=sum(self.sizes),
                tokens=sum(sum(c.tokens) for c in self.counts),
                documents=sum(sum(c.documents) for c in self.counts),
                seconds=time.monotonic() - self.started,
                resumed_bytes=self.resumed_bytes,
            )
        )

    def _checkpoint(self) -> None:
        with open(self.partial / JOURNAL, "ab") as journal:
            self.journal_bytes += journal.write(self.seen.drain())
            journal.flush()
            os.fsync(journal.fileno())
        state = {
            "fingerprint": self.fingerprint,
            "cursor": [self.source, self.file, self.row],
            "sizes": self.sizes,
            "writers": [writer.checkpoint() for writer in self.writers],
            "journal_bytes": self.journal_bytes,
            "counts": [c.state() for c in self.counts],
        }
        sync_directory(self.partial)
        write_atomic(self.partial / STATE, json.dumps(state).encode())
        self.saved = time.monotonic()

    def _resume(self) -> None:
        try:
            state = json.loads((self.partial / STATE).read_bytes())
        except (FileNotFoundError, ValueError):
            state = None
        if state is None or state["fingerprint"] != self.fingerprint:
            if state is not None and self.on_note:
                self.on_note(f"{self.partial.name} is from other inputs: starting afresh.")
            shutil.rmtree(self.partial)
            self.partial.mkdir()
            return
        self.source, self.file, self.row = state["cursor"]
        self.sizes = state["sizes"]
        self.journal_bytes = state["journal_bytes"]
        self.counts = [Counts.load(c) for c in state["counts"]]
        for writer, saved in zip(self.writers, state["writers"], strict=True):
            writer.resume(saved)
        journal = self.partial / JOURNAL
        os.truncate(journal, self.journal_bytes)
        self.seen.restore(journal.read_bytes())
        self.resumed_bytes = sum(c.text_bytes for c in self.counts)
        if self.on_note:
            self.on_note(f"Continuing an interrupted run after {self.resumed_bytes / 1e6:.1f} MB.")

    def _finish(self) -> dict[str, Any]:
        shards = [writer.finish() for writer in self.writers]
        totals = [sum(c.tokens[split] for c in self.counts) for split in range(len(SPLITS))]
        if not totals[0]:
            raise DataError(
                "no training document is left after cleaning and filtering.",
                path=self.sources[0].name,
                repair="Look at a file with: everloop data inspect FILE",
            )
        manifest = {
            "format": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "dtype": self.dtype,
            "masked": self.masked,
            "end_of_document": self.encoder.end,
            "vocab_size": self.vocab_size,
            "tokenizer_sha256": self.identity["tokenizer_sha256"],
            "options": self.identity["options"],
            "sources": [
                {**described, **counts.described()}
                for described, counts in zip(self.identity["sources"], self.counts, strict=True)
            ],
            "splits": {
                split: {
                    "tokens": totals[number],
                    "documents": sum(c.documents[number] for c in self.counts),
                    "pieces": sum(c.pieces[number] for c in self.counts),
                    "targets": sum(c.targets[number] for c in self.counts),
                    "bytes": sum(c.bytes[number] for c in self.counts),
                    "shards": [self._describe(split, i) for i in range(shards[number])],
                }
                for number, split in enumerate(SPLITS)
            },
        }
        text = json.dumps(manifest, ensure_ascii=False, indent=1)
        write_atomic(self.partial / MANIFEST, text.encode())
        return read_manifest(self.partial)

    def _describe(self, split: str, index: int) -> dict[str, Any]:
        tokens = shard_path(self.partial, split, index, "tokens")
        offsets = shard_path(self.partial, split, index, "offsets")
        return {
            "tokens": tokens.stat().st_size // np.dtype(self.dtype).itemsize,
            "pieces": offsets.stat().st_size // 8 - 1,
            "sha256": sha256_file(tokens),
        }


def _with_noise(document: Document, counts: Counts, rate: float) -> Document:
    """The document, or by its hash one with noise. Held-out ones never are."""
    if not rate or document.split or document.example is None:
        return document
    chance = mix(document.value, _NOISE_SALT)
    if share(chance) >= rate:
        return document
    example = with_noise(document.example, mix(chance, 0))
    if example == document.example:
        return document
    counts.noisy += 1
    return dataclasses.replace(document, example=example, text=example.text)


def _batches(rows: Iterator[Row], intake: Intake) -> Iterator[tuple[int, list[Document]]]:
    """How many rows were read, and the candidates among them: about a megabyte of text, enough to
    keep the encoder's threads busy."""
    number = chars = 0
    candidates: list[Document] = []
    for row in rows:
        number += 1
        if (document := intake.read(row)) is not None:
            candidates.append(document)
            chars += len(document.text)
        if chars >= _BATCH_CHARS or number >= _BATCH_ROWS:
            yield number, candidates
            number, chars, candidates = 0, 0, []
    if number:
        yield number, candidates

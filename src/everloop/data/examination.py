"""A look at the examples of sources before anything is trained on them: what is odd, and what
training does about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from everloop.data import source as specs
from everloop.data.counts import Counts
from everloop.data.dedup import Deduplicator
from everloop.data.documents import Document, Intake
from everloop.data.findings import Examiner, Finding, Kind
from everloop.data.pack_options import PackOptions
from everloop.data.source import Source
from everloop.errors import DataError

LABELLED: Final = frozenset(("sentiment", "topic", "classify", "spam", "intent"))
"""Tasks whose answers are labels."""

DONE: Final[Mapping[Kind, str]] = {
    "empty": "They are trained on as they are: answers to nothing.",
    "long": "Those that have more tokens than an example may are left out, and named.",
    "once": "It is kept, but one example teaches little: add some, or merge it with another label.",
    "constant": "The model will learn to answer nothing else: add rows of other labels.",
    "copies": "They are left out, unless the source says dedup = none.",
    "across": "They stay, and the held-out loss looks better than it is.",
    "contradiction": "They are kept, though no answer is right for all of them.",
    "mixed": "They are trained on together, each asked in its own language.",
}


def examine(sources: tuple[Source, ...], options: PackOptions) -> dict[str, list[Finding]]:
    """What is odd about the examples, by source; nothing where nothing is. Rows that can't be used
    are passed over: packing names them."""
    found = {}
    for source in sources:
        if source.kind == "examples":
            examiner = Examiner()
            _read(replace(source, max_bytes=0), options, examiner)
            if findings := examiner.findings(DONE):
                found[source.name] = findings
    return found


def _read(source: Source, options: PackOptions, examiner: Examiner) -> None:
    intake = Intake(
        source,
        Counts(),
        Deduplicator(),
        _ignore,
        size=0,
        seed=options.seed,
        val_fraction=options.val_fraction,
    )
    for path in source.files:
        for row in specs.rows(source, path, on_refusal=_ignore):
            if (document := intake.read(row)) is not None:
                see(examiner, document, layout=intake.layout_name)


def see(examiner: Examiner, document: Document, *, layout: str) -> None:
    """Shows an example to the examiner. The prompt of a raw completion may be empty."""
    example = document.example
    if example is None:
        return
    if example.is_raw:
        text, answer = example.prompt or example.completion, example.completion
    else:
        text = "\n".join(m["content"] for m in example.messages if m["role"] != "assistant")
        answer = example.messages[-1]["content"]
    labelled = layout == "classification" or example.task in LABELLED
    examiner.see(
        text,
        answer,
        label=answer if labelled else "",
        side=document.split,
        where=f"{document.row.path}:{document.row.line}",
    )


def _ignore(error: DataError) -> None:
    """Named by packing."""

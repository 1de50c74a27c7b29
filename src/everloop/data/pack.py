"""Sources to packed shards: read, clean, deduplicate, split, tokenize, cut, write.

One stream in constant memory. The work happens in `OUT.partial`, is made durable every few
seconds, and is renamed to `OUT` when complete: a killed run continues with the same command, and
its bytes equal those of a run that was never interrupted, because every decision depends on a
document's text and its place in the sources alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from everloop.data.counts import Progress
from everloop.data.encode import Encoder
from everloop.data.encoding import Note
from everloop.data.files import disk_errors, sync_directory
from everloop.data.pack_options import PackOptions, identity
from everloop.data.packing import JOURNAL, STATE, Packing
from everloop.data.row import Refuse
from everloop.data.shards import PackedDataset, read_manifest
from everloop.data.source import Source
from everloop.errors import InvalidRequest

__all__ = ["PackOptions", "PackedDataset", "Progress", "pack"]


def pack(
    sources: tuple[Source, ...],
    tokenizer_dir: Path,
    out_dir: Path,
    *,
    options: PackOptions | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Note | None = None,
    on_refusal: Refuse | None = None,
    checkpoint_seconds: float = 10.0,
) -> dict[str, Any]:
    """Pack `sources` into `out_dir` and return the manifest.

    A finished `out_dir` of the same inputs is left alone; one of other inputs is an error. A bad
    row raises DataError unless `on_refusal` takes it.
    """
    options = options or PackOptions()
    encoder = Encoder(tokenizer_dir, options.max_tokens)
    inputs = identity(sources, tokenizer_dir, options)
    fingerprint = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    if out_dir.exists():
        return _finished(out_dir, fingerprint)
    partial = out_dir.with_name(out_dir.name + ".partial")
    with disk_errors(out_dir):
        partial.mkdir(parents=True, exist_ok=True)
        run = Packing(sources, encoder, partial, options, fingerprint, inputs)
        run.on_progress, run.on_note, run.on_refusal = on_progress, on_note, on_refusal
        run.checkpoint_seconds = checkpoint_seconds
        try:
            manifest = run.run()
        except BaseException:
            for writer in run.writers:
                writer.abandon()
            raise
        (partial / STATE).unlink()
        (partial / JOURNAL).unlink()
        sync_directory(partial)
        os.rename(partial, out_dir)
        sync_directory(out_dir.parent)
    return manifest


def _finished(out_dir: Path, fingerprint: str) -> dict[str, Any]:
    manifest = read_manifest(out_dir)
    if manifest["fingerprint"] != fingerprint:
        raise InvalidRequest(
            f"{out_dir} was packed from other sources, options or another tokenizer. "
            "Choose another --out, or delete it.",
            param="out",
        )
    return manifest

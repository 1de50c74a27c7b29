"""One file of rows into a training and a validation file, by the hash of each row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from everloop.data.encoding import Note
from everloop.data.files import atomic_file, disk_errors
from everloop.data.read import Unit, read
from everloop.data.row import Refuse
from everloop.data.split import SPLITS, document_hash, split_of
from everloop.errors import InvalidRequest


def divide(
    path: Path,
    out_dir: Path,
    *,
    val_fraction: float,
    seed: int = 0,
    format: str | None = None,
    unit: Unit = "line",
    on_note: Note | None = None,
    on_refusal: Refuse | None = None,
) -> dict[str, int]:
    """Write `train.jsonl` and `validation.jsonl` to `out_dir`; the number of rows in each.

    Equal rows always fall on the same side, also when the file grows. Rows of a txt file become
    {"text": …}. Nothing is left behind when a row is refused or the disk is full.
    """
    if not 0 < val_fraction < 1:
        raise InvalidRequest(
            f"val_fraction is {val_fraction}: above 0 and below 1.", param="val_fraction"
        )
    counts = [0, 0]
    with disk_errors(out_dir):
        out_dir.mkdir(parents=True, exist_ok=True)
    train, validation = (out_dir / f"{split}.jsonl" for split in SPLITS)
    with atomic_file(train) as first, atomic_file(validation) as second:
        for row in read(path, format=format, unit=unit, on_note=on_note, on_refusal=on_refusal):
            value: Any = {"text": row.value} if isinstance(row.value, str) else row.value
            identity = orjson.dumps(value, option=orjson.OPT_SORT_KEYS, default=str).decode()
            side = split_of(document_hash(identity, seed), val_fraction)
            (first, second)[side].write(orjson.dumps(value, default=str) + b"\n")
            counts[side] += 1
    return dict(zip(SPLITS, counts, strict=True))

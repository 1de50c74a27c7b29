"""Megabytes of raw text packed per second and core, with and without removal of near copies.

    python bench/data_pack.py [FILE …] [--tokenizer DIR] [--mb 60]

Without files: both Wikipedias of the default model's recipe, under EVERLOOP_DATA.
One core is one thread here: the tokenizer's threads are limited to one, and the rate is over CPU
time, so that other work on the machine doesn't change it much.
"""

from __future__ import annotations

import os

os.environ["RAYON_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import everloop
from everloop.data.clean import STEPS, clean
from everloop.data.dedup import Deduplicator
from everloop.data.language import language
from everloop.data.pack import PackOptions, pack
from everloop.data.sources import Source, iter_texts, single
from everloop.data.split import document_hash
from everloop.model.tokenizer import Tokenizer

EMBEDDED = Path(everloop.__file__).parent / "models" / "everloop-small"
WIKIPEDIAS = ("pretrain/zh_wiki_simp.jsonl.zst", "pretrain/en_wiki_core.jsonl.zst")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--tokenizer", type=Path, default=EMBEDDED)
    parser.add_argument("--mb", type=float, default=60, help="text per file")
    options = parser.parse_args()
    data = os.environ.get("EVERLOOP_DATA")
    files = options.files or [Path(data) / name for name in WIKIPEDIAS if data]
    if not files:
        print("Nothing to pack: name files, or set EVERLOOP_DATA to the recipe's data folder.")
    for path in files:
        source = dataclasses.replace(single(path), kind="text", clean=STEPS)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(source, options.tokenizer, options.mb, Path(folder))))


def measure(source: Source, tokenizer: Path, megabytes: float, folder: Path) -> dict[str, object]:
    texts = list(iter_texts((source,), max_bytes=int(megabytes * 1e6)))
    size = sum(len(text.encode()) for text in texts) / 1e6
    sample = folder / "sample.jsonl"
    sample.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    sample_source = dataclasses.replace(source, files=(sample,), field=("text",), format="jsonl")
    values = [document_hash(text) for text in texts]
    loaded = Tokenizer.load(tokenizer)

    def packed(dedup: str) -> Callable[[], object]:
        chosen = dataclasses.replace(sample_source, dedup=dedup)  # type: ignore[arg-type]
        return lambda: pack((chosen,), tokenizer, folder / dedup, options=PackOptions())

    steps: dict[str, Callable[[], object]] = {
        "clean": lambda: [clean(text, source.clean) for text in texts],
        "hash": lambda: [document_hash(text) for text in texts],
        "near": lambda: Deduplicator().check(values, texts, near=True),
        "language": lambda: [language(text) for text in texts],
        "tokenize": lambda: loaded.encode_batch(texts),
        "pack, no dedup": packed("none"),
        "pack, exact": packed("exact"),
        "pack, near": packed("near"),
    }
    found: dict[str, object] = {"file": source.files[0].name, "MB": round(size, 1)}
    for name, step in steps.items():
        start = time.process_time()
        step()
        found[f"{name} MB/s"] = round(size / (time.process_time() - start), 1)
    return found


if __name__ == "__main__":
    main()

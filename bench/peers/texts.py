"""What the models read: random prompts for speed, held-out text for perplexity."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from everloop.data.clean import STEPS, clean
from everloop.data.read import read
from everloop.data.split import document_hash, split_of
from everloop.model.tokenizer import Tokenizer

from .words import FIRST_WORD

ROWS = Path(__file__).parents[2] / "recipes" / "everloop-small" / "rows"

DATA = {"en": "pretrain/en_wiki_core.jsonl.zst", "zh": "pretrain/zh_wiki_simp.jsonl.zst"}
"""Files of EVERLOOP_DATA that the default model's recipe reads."""

HELD_OUT = 0.003
"""The share that the recipe keeps for validation (`--val-fraction`), by the same hash."""

WINDOWS, WINDOW = 16, 960
"""Windows of a language, and tokens of each: they fit into the default model's context."""


def prompt(vocab: int, length: int, seed: str) -> list[int]:
    """Random ids of words; another seed gives an unrelated prompt."""
    draw = random.Random(seed)
    return [draw.randrange(FIRST_WORD, vocab) for _ in range(length)]


def held_out(lang: str, model: Path, data: Path | None) -> tuple[list[list[int]], str]:
    """Windows of token ids for the tokenizer of `model`, and where they are from: documents that
    the default model wasn't trained on, or, without data, the repository's own rows."""
    path = None if data is None else data / DATA[lang]
    found = path is not None and path.is_file()
    texts = _validation(path) if found and path is not None else _rows(lang)
    source = f"{DATA[lang]}, held out" if found else "recipes/everloop-small/rows"
    tokenizer, windows, ids = Tokenizer.load(model), [], []
    for text in texts:
        ids += tokenizer.encode(text + "\n\n")
        while len(ids) >= WINDOW and len(windows) < WINDOWS:
            windows.append(ids[:WINDOW])
            ids = ids[WINDOW:]
        if len(windows) == WINDOWS:
            return windows, source
    raise ValueError(f"{source} has too little {lang} text: {len(windows)} of {WINDOWS} windows")


def _validation(path: Path) -> Iterator[str]:
    for row in read(path):
        text = clean(row.value["text"], STEPS) if isinstance(row.value, dict) else row.value
        if split_of(document_hash(text), HELD_OUT):
            yield text[:8000]  # of several documents, rather than of one long one


def _rows(lang: str) -> Iterator[str]:
    for path in sorted(ROWS.glob(f"{lang}_*.jsonl")):
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line:
                yield "\n".join(m["content"] for m in json.loads(line)["messages"])

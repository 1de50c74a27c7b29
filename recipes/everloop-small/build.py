"""Make the training files of the default model from the public data.

    python recipes/everloop-small/build.py [--data DIR] [--out DIR] [--only text|tasks]

Reads the files named in the README from --data (or EVERLOOP_DATA) and writes, under --out:
text/NAME.jsonl (pretraining), sft/TASK.SOURCE.jsonl (examples), validation/TASK.SOURCE.jsonl and
train/TASK.SOURCE.jsonl (rows for evaluation and its baselines). Equal input gives equal bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convert import (
    correction,
    dialogue,
    edits,
    instruct,
    labels,
    reading,
    text,
    translation,
)
from convert import (
    measured as only_measured,
)
from convert.common import Item, Side, chance

from everloop.data.files import write_atomic

VALIDATION_ROWS = 2000  # a source; more would only cost time
EXAMPLE_ROWS = 40_000
RAW_FRACTION = 0.03
# Beside sets with labels: tasks whose baselines learn from rows.
LEARNT = ("translate", "correct", "chat", "service")
EXAMPLE_CHARS = {"zh": 700, "en": 1800}  # about 500 tokens


def items(data: Path) -> Iterator[Item]:
    """Every example of every set."""
    for module in (dialogue, labels, translation, correction, reading, edits, instruct):
        yield from module.items(data)


def write(path: Path, rows: list[dict[str, Any]], limit: int | None = None) -> list[dict[str, Any]]:
    """Writes the rows as JSON lines, each once, in an order that depends on their content alone,
    and at most `limit`; returns those."""
    lines = {json.dumps(row, ensure_ascii=False): row for row in rows}
    order = sorted(lines, key=lambda line: (chance(line), line))[:limit]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(f"{line}\n" for line in order).encode())
    return [lines[line] for line in order]


def fits(item: Item) -> bool:
    """Whether the example is short enough for the model's context."""
    return sum(len(m["content"]) for m in item.messages) <= EXAMPLE_CHARS[item.lang]


def raw(item: Item) -> dict[str, Any]:
    """The example as a prompt without a chat template, for models called by /v1/completions."""
    asked, answer = (m["content"] for m in item.messages)
    return {"prompt": asked, "completion": f"\n\n{answer}", "task": item.task, "lang": item.lang}


def build_tasks(data: Path, out: Path) -> None:
    """Writes the supervised files and prints what they hold."""
    examples: dict[str, list[dict[str, Any]]] = defaultdict(list)
    measured: dict[tuple[Side, str], list[dict[str, Any]]] = defaultdict(list)
    left_out = 0
    for item in items(data):
        name = f"{item.task}.{item.source}"
        named = {"task": item.task, "lang": item.lang, "source": item.source}
        if item.fields:
            measured[item.side, name].append({**named, **item.fields})
        if item.side == "train" and fits(item):
            examples[name].append({"messages": item.messages, **named})
            if len(item.messages) == 2 and chance(item.messages[0]["content"], 9) < RAW_FRACTION:
                examples["completion"].append(raw(item))
        elif item.side == "train":
            left_out += 1
    whole = set()
    for at, name, row in only_measured.rows(data):
        measured[at, name].append(row)
        whole.add(name)
    for folder in ("sft", "train", "validation"):
        shutil.rmtree(out / folder, ignore_errors=True)
    held = {}
    for (at, name), rows in sorted(measured.items()):
        if at == "validation":
            held[name] = write(
                out / "validation" / f"{name}.jsonl",
                rows,
                None if name in whole else VALIDATION_ROWS,
            )
        elif "label" in rows[0] or rows[0]["task"] in LEARNT:
            write(out / "train" / f"{name}.jsonl", rows)
    print(f"{'source':<30}{'zh rows':>8}{'en rows':>8}{'characters':>12}{'validation':>11}")
    total: Counter[str] = Counter()
    for name, rows in sorted(examples.items()):
        kept = write(out / "sft" / f"{name}.jsonl", rows, EXAMPLE_ROWS)
        langs = Counter(row["lang"] for row in kept)
        size = sum(len(text) for row in kept for text in strings(row))
        total += langs
        print(f"{name:<30}{langs['zh']:>8}{langs['en']:>8}{size:>12,}{len(held.get(name, ())):>11}")
    for name in sorted(whole):
        print(f"{name:<30}{'':>28}{len(held[name]):>11}  only measured")
    print(f"{'all':<30}{total['zh']:>8}{total['en']:>8}; {left_out} left out as too long")


def strings(row: dict[str, Any]) -> list[str]:
    """The texts of an example."""
    return [m["content"] for m in row.get("messages", ())] or [row["prompt"], row["completion"]]


def build_text(data: Path, out: Path) -> None:
    """Writes the pretraining files and prints what they hold."""
    documents: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, document in text.texts(data):
        documents[name].append({"text": document})
    for name, rows in sorted(documents.items()):
        kept = write(out / "text" / f"{name}.jsonl", rows)
        size = sum(len(row["text"].encode()) for row in kept)
        print(f"{name:<18}{len(kept):>7} documents{size:>12,} bytes")


def main() -> int:
    """Parses the arguments and builds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("EVERLOOP_DATA"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "built")
    parser.add_argument("--only", choices=("text", "tasks"))
    args = parser.parse_args()
    if args.data is None or not Path(args.data).is_dir():
        print("No data. Give --data DIR or set EVERLOOP_DATA (see the README).", file=sys.stderr)
        return 2
    if args.only != "tasks":
        build_text(Path(args.data), args.out)
    if args.only != "text":
        build_tasks(Path(args.data), args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

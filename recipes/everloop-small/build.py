"""Make the training files of the default model from the public data.

    python recipes/everloop-small/build.py [--data DIR] [--out DIR] [--only text|tasks]

Reads the files named in the README from --data (or EVERLOOP_DATA) and writes, under --out:
text/NAME.jsonl (pretraining), sft/TASK.LANG.SOURCE.jsonl (examples), validation/SOURCE.jsonl and
train/SOURCE.jsonl (rows for evaluation and its baselines). Equal input gives equal bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convert import correction, dialogue, edits, instruct, labels, reading, text, translation
from convert.common import Item, chance
from everloop.data.files import write_atomic

VALIDATION_ROWS = 2000  # a source; more would only cost time
EXAMPLE_ROWS = 40_000
EXAMPLE_CHARS = {"zh": 700, "en": 1800}  # about 500 tokens


def items(data: Path) -> Iterator[Item]:
    """Every example of every set."""
    for module in (dialogue, labels, translation, correction, reading, edits, instruct):
        yield from module.items(data)


def dump(rows: list[dict[str, Any]]) -> bytes:
    """Rows as JSON lines, each once, in an order that depends on their content alone."""
    lines = {json.dumps(row, ensure_ascii=False) for row in rows}
    return "".join(f"{line}\n" for line in sorted(lines, key=lambda s: (chance(s), s))).encode()


def write(path: Path, rows: list[dict[str, Any]], limit: int | None = None) -> int:
    """Writes at most `limit` rows; says how many."""
    content = dump(rows).splitlines(keepends=True)[:limit]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, b"".join(content))
    return len(content)


def fits(item: Item) -> bool:
    """Whether the example is short enough for the model's context."""
    return sum(len(m["content"]) for m in item.messages) <= EXAMPLE_CHARS[item.lang]


def build_tasks(data: Path, out: Path) -> None:
    """Writes the supervised files and prints what they hold."""
    examples: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    measured: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    left_out = 0
    for item in items(data):
        named = {"task": item.task, "lang": item.lang, "source": item.source}
        if item.fields:
            measured[item.side, item.source].append({**named, **item.fields})
        if item.side == "train":
            if fits(item):
                key = (item.task, item.lang, item.source)
                examples[key].append({"messages": item.messages, **named})
            else:
                left_out += 1
    print(f"{'task':<11}{'lang':<5}{'source':<18}{'rows':>7}{'characters':>12}{'validation':>11}")
    validation = {
        source: write(out / "validation" / f"{source}.jsonl", rows, VALIDATION_ROWS)
        for (side, source), rows in sorted(measured.items())
        if side == "validation"
    }
    for (side, source), rows in sorted(measured.items()):
        if side == "train" and "label" in rows[0]:
            write(out / "train" / f"{source}.jsonl", rows)
    total = 0
    for (task, lang, source), rows in sorted(examples.items()):
        count = write(out / "sft" / f"{task}.{lang}.{source}.jsonl", rows, EXAMPLE_ROWS)
        size = sum(len(m["content"]) for row in rows for m in row["messages"]) * count // len(rows)
        total += count
        held = validation.get(source, 0)
        print(f"{task:<11}{lang:<5}{source:<18}{count:>7}{size:>12,}{held:>11}")
    print(f"{total} examples; {left_out} left out as too long")


def build_text(data: Path, out: Path) -> None:
    """Writes the pretraining files and prints what they hold."""
    documents: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, document in text.texts(data):
        documents[name].append({"text": document})
    for name, rows in sorted(documents.items()):
        count = write(out / "text" / f"{name}.jsonl", rows)
        size = sum(len(row["text"].encode()) for row in rows)
        print(f"{name:<18}{count:>7} documents{size:>12,} bytes")


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

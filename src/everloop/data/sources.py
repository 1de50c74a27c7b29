"""The source spec: a TOML file that says which files are trained on, how they are read and how
often; and the cleaned texts of such a spec.

    [[source]]
    name = "wiki"
    files = ["wiki/*.jsonl.zst"]   # relative to the data folder or to this file
    field = ["title", "text"]      # columns joined by an empty line
    weight = 2.0                   # epochs, relative to the other sources

Every key and its meaning is a field of `Source`; an unknown key is an error that names it.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

from everloop.data.clean import clean, steps_of
from everloop.data.encoding import Note
from everloop.data.layouts import LAYOUTS, find_layout
from everloop.data.read import FORMATS, Unit
from everloop.data.source import (
    SUBSET_MARGIN,
    Dedup,
    Kind,
    Source,
    chosen,
    ignore,
    length,
    rows,
    size_of,
    strings,
    text_of,
)
from everloop.data.split import document_hash
from everloop.errors import DataError, EverloopError, InvalidRequest, NotFound

__all__ = ["Source", "adapted", "iter_texts", "load", "single", "size_of"]


def load(path: Path, root: Path | None = None) -> tuple[Source, ...]:
    """Sources of the spec at `path`; globs are looked up under `root`, then beside the spec. A
    path that isn't a .toml is a data file: a single source with the usual settings."""
    if path.suffix != ".toml":
        return (single(path),)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(f"{path}: no such source spec.", param="spec") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} is not valid TOML: {error}.", param="spec") from None
    entries = table.get("source")
    if not isinstance(entries, list) or not entries:
        raise InvalidRequest(
            f"{path} has no [[source]]. Add one with name and files.", param="source"
        )
    roots = [r.resolve() for r in (root, path.parent) if r is not None]
    found = tuple(_source(entry, path, roots) for entry in entries)
    names = Counter(source.name for source in found)
    if twice := [name for name, n in names.items() if n > 1]:
        raise InvalidRequest(f"{path}: two sources are named {twice[0]!r}.", param="name")
    return found


def single(path: Path) -> Source:
    """One file as a source: examples where its first row has the columns of one, else text."""
    source = Source(name=path.name.partition(".")[0], files=(path,), clean=steps_of(True))
    first = next(rows(source, path, on_refusal=ignore), None)
    if first is None or isinstance(first.value, str) or set(first.value) == {"text"}:
        return source
    try:
        find_layout(first)
    except DataError:
        return source
    return replace(source, kind="examples", clean=())


def adapted(
    path: Path,
    *,
    kind: str = "",
    layout: str = "",
    task: str = "",
    columns: Mapping[str, str] | None = None,
) -> Source:
    """`single`, with what the caller knows better ("" and None: as detected)."""
    source = single(path)
    examples = "examples" if layout or columns or task else ""
    told = {"kind": kind or examples, "layout": layout, "task": task}
    for key, value in told.items():
        if value:
            source = replace(source, **{key: _CONVERT[key](value)})
    if source.kind == "examples":
        source = replace(source, clean=(), columns=columns or {})
    elif columns:
        source = replace(source, field=tuple(columns.values()))
    return source


def _source(entry: dict[str, Any], path: Path, roots: list[Path]) -> Source:
    name = entry.get("name")
    where = f"{path}: source {name!r}"
    known = [f.name for f in fields(Source)]
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{path}: a [[source]] has no name.", param="name")
    for key in entry:
        if key not in known:
            raise InvalidRequest(
                f"{where}: unknown key {key!r}; there are {', '.join(known)}.", param=key
            )
    values = dict(entry)
    for key, convert in _CONVERT.items():
        if key in values:
            try:
                values[key] = convert(values[key])
            except (TypeError, ValueError) as error:
                raise InvalidRequest(f"{where}: {key} {error}.", param=key) from None
    kind = values.get("kind", "text")
    if values.get("noise") and kind != "examples":
        raise InvalidRequest(
            f'{where}: noise is for kind = "examples": a text would be learnt with its mistakes.',
            param="noise",
        )
    # Example rows are exact: a cleaned answer could differ from what the task asks for.
    values["clean"] = steps_of(values.get("clean", kind == "text"))
    values["files"] = _files(entry.get("files"), where, roots)
    return Source(**values)


def _one_of(*allowed: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if value not in allowed:
            raise ValueError(f"is {value!r}: must be one of {', '.join(allowed)}")
        return str(value)

    return check


def _number(low: float, high: float = float("inf")) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"is {value!r}: must be a number")
        if not low <= value <= high:
            raise ValueError(f"is {value}: must be at least {low} and at most {high}")
        return value

    return check


def _columns(value: object) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
        raise TypeError(f"is {value!r}: must be a column name or a list of them")
    return tuple(names)


def _named(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise TypeError(f'is {value!r}: must be a table such as {{text = "review"}}')
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"is {value!r}: must be text")
    return value


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "kind": _one_of(*get_args(Kind)),
    "format": _one_of(*FORMATS),
    "unit": _one_of(*get_args(Unit)),
    "dedup": _one_of(*get_args(Dedup)),
    "field": _columns,
    "columns": _named,
    "labels": _named,
    "layout": _one_of(*LAYOUTS),
    "task": _text,
    "lang": _text,
    "weight": _number(0.0),
    "max_bytes": _number(0),
    "min_chars": _number(0),
    "fim_rate": _number(0.0, 1.0),
    "noise": _number(0.0, 1.0),
}


def _files(patterns: object, where: str, roots: list[Path]) -> tuple[Path, ...]:
    if isinstance(patterns, str):
        patterns = [patterns]
    if not isinstance(patterns, list) or not patterns:
        raise InvalidRequest(f"{where} has no files.", param="files")
    found: list[Path] = []
    for pattern in patterns:
        matches: list[Path] = []
        for root in roots:
            if Path(pattern).is_absolute():
                matches = [Path(pattern)] if Path(pattern).is_file() else []
            else:
                matches = sorted(p for p in root.glob(pattern) if p.is_file())
            if matches:
                break
        if not matches:
            raise NotFound(
                f"{where}: no file matches {pattern!r} in {' or '.join(map(str, roots))}. "
                "Set EVERLOOP_DATA (or --data) to the folder that has it.",
                param="files",
            )
        found += [m for m in matches if m not in found]
    return tuple(found)


def iter_texts(
    sources: tuple[Source, ...] | Path,
    *,
    max_bytes: int = 0,
    root: Path | None = None,
    seed: int = 0,
    on_note: Note | None = None,
) -> Iterator[str]:
    """Cleaned texts for training a tokenizer: at most about `max_bytes` bytes (0: all), from each
    source in proportion to its size times its weight, chosen by hash. Sources of examples give
    the texts of their rows."""
    if isinstance(sources, Path):
        sources = load(sources, root)
    sizes = [size_of(source) for source in sources]
    usable = [min(size, s.max_bytes or size) for size, s in zip(sizes, sources, strict=True)]
    wanted = [size * s.weight for size, s in zip(usable, sources, strict=True)]
    if not sum(wanted):
        raise EverloopError("All sources are empty or have weight 0.", param="source")
    for source, size, most, want in zip(sources, sizes, usable, wanted, strict=True):
        budget = min(most, int(max_bytes * want / sum(wanted))) if max_bytes else most
        if budget:
            yield from _subset(source, budget, SUBSET_MARGIN * budget / size, seed, on_note)


def _subset(
    source: Source, budget: int, part: float, seed: int, on_note: Note | None
) -> Iterator[str]:
    for path in source.files:
        for row in rows(source, path, on_note=on_note):
            if isinstance(row.value, str) or source.kind == "text":
                text = text_of(source, row)
            else:
                text = "\n".join(strings(row.value))
            if not chosen(document_hash(text), part, seed):
                continue
            text = clean(text, source.clean)
            if len(text) < source.min_chars:
                continue
            yield text
            budget -= length(text)
            if budget <= 0 and part < 1:
                return

"""`everloop data`: look at data, and pack it for training."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import everloop
from everloop.cli.flags import takes_settings
from everloop.errors import EverloopError, InvalidRequest
from everloop.settings import Settings

if TYPE_CHECKING:
    from everloop.data.counts import Progress

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def data() -> None:
    """Inspect, clean, deduplicate and pack data."""


@app.command()
@takes_settings("model")
def inspect(
    settings: Settings,
    file: Annotated[Path, typer.Argument(help="Data file: txt, jsonl, csv, xlsx, parquet, …")],
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Folder with tokenizer.json; default: the default model.", metavar="DIR"),
    ] = None,
    kind: Annotated[str, typer.Option(help="text or examples; default: by the columns.")] = "",
    layout: Annotated[str, typer.Option(help="Layout of the examples, if not detected.")] = "",
    task: Annotated[str, typer.Option(help="Task of the examples, such as sentiment.")] = "",
    column: Annotated[
        list[str] | None, typer.Option(help="Which column plays a part, as part=column.")
    ] = None,
    max_rows: Annotated[int, typer.Option(help="Read only so many rows; 0: all.")] = 0,
    max_tokens: Annotated[int, typer.Option(help="Refuse longer examples; 0: none.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Show what a data file holds, what can't be used and why, and what would be learnt.

    Leaves with 1 when no row can be used.
    """
    from everloop.cli.inspection import show
    from everloop.data.inspection import inspect as look
    from everloop.data.sources import adapted

    found = look(
        adapted(file, kind=kind, layout=layout, task=task, columns=_pairs(column or [])),
        tokenizer=tokenizer or _default_tokenizer(settings.model),
        max_rows=max_rows,
        max_tokens=max_tokens,
    )
    if as_json:
        print(json.dumps(dataclasses.asdict(found), ensure_ascii=False, indent=1))
    else:
        show(found)
    if not found.documents:
        raise typer.Exit(1)


def _pairs(given: list[str]) -> dict[str, str]:
    pairs = {}
    for item in given:
        part, equals, column = item.partition("=")
        if not equals or not part or not column:
            raise InvalidRequest(
                f"--column {item!r}: write it as part=column, such as text=review.", param="column"
            )
        pairs[part] = column
    return pairs


def _default_tokenizer(model: str) -> Path | None:
    path = Path(everloop.__file__).parent / "models" / model
    return path if (path / "tokenizer.json").is_file() else None


@app.command()
def split(
    file: Annotated[Path, typer.Argument(help="Data file of any format.")],
    out: Annotated[Path, typer.Option(help="Folder for train and validation.", metavar="DIR")],
    val_fraction: Annotated[float, typer.Option(help="Share of rows held out.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Draws another split.")] = 0,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Report rows that can't be read, and go on.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Divide a file's rows into train.jsonl and validation.jsonl, by their hash."""
    from everloop.data.divide import divide

    refused = Refused()
    counts = divide(
        file,
        out,
        val_fraction=val_fraction,
        seed=seed,
        on_note=_say,
        on_refusal=refused if skip_bad_rows else None,
    )
    refused.sum_up()
    if as_json:
        print(json.dumps(counts))
    else:
        print(f"{out}: {counts['train']:,} rows to train on, {counts['validation']:,} held out")


@app.command()
@takes_settings("data")
def pack(
    settings: Settings,
    spec: Annotated[Path, typer.Argument(help="Source spec (TOML).")],
    tokenizer: Annotated[Path, typer.Option(help="Folder with tokenizer.json.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="Folder to make.", metavar="DIR")],
    val_fraction: Annotated[float, typer.Option(help="Share of documents held out.")] = 0.005,
    max_tokens: Annotated[int, typer.Option(help="Longer documents are cut.")] = 2048,
    seed: Annotated[int, typer.Option(help="Draws another validation split.")] = 0,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Report rows that can't be used, and go on.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Tokenize the sources of a spec into shards for training.

    Run again, an interrupted pack continues where it stopped; the result is the same, byte by byte.
    """
    from everloop.data import pack as packing
    from everloop.data import sources

    refused = Refused()
    with show_progress() as report:
        manifest = packing.pack(
            sources.load(spec, settings.data),
            tokenizer,
            out,
            options=packing.PackOptions(
                val_fraction=val_fraction, max_tokens=max_tokens, seed=seed
            ),
            on_progress=report,
            on_note=_say,
            on_refusal=refused if skip_bad_rows else None,
        )
    refused.sum_up()
    if as_json:
        print(json.dumps(manifest, ensure_ascii=False, indent=1))
    else:
        _print_manifest(manifest, out)


@contextmanager
def show_progress() -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, a line now and then on a pipe; both on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading", total=None, state="")

        def show(progress: Progress) -> None:
            bar.update(
                task,
                description=progress.source,
                total=progress.total_bytes,
                completed=progress.text_bytes,
                state=_state(progress),
            )

        yield show


def _lines() -> Callable[[Progress], None]:
    last = [0.0]

    def show(progress: Progress) -> None:
        if progress.seconds - last[0] >= 5:
            last[0] = progress.seconds
            _say(f"{progress.source}: {_state(progress)}")

    return show


def _state(progress: Progress) -> str:
    done, total = progress.text_bytes / 1e6, progress.total_bytes / 1e6
    rate = (progress.text_bytes - progress.resumed_bytes) / 1e6 / max(progress.seconds, 1e-9)
    eta = progress.eta
    left = "" if eta is None else f", {int(eta) // 60}:{int(eta) % 60:02d} left"
    return (
        f"{done:.0f} of {total:.0f} MB, {progress.tokens / 1e6:.1f}M tokens, {rate:.1f} MB/s{left}"
    )


def _print_manifest(manifest: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from everloop.cli.inspection import shares

    table = Table(box=None, pad_edge=False)
    table.add_column("source", overflow="fold")
    for name in ("weight", "texts", "MB", "tokens", "B/token", "copies", "held out"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("language")
    for source in manifest["sources"]:
        texts, tokens, size = (sum(source[k].values()) for k in ("documents", "tokens", "bytes"))
        table.add_row(
            source["name"],
            f"{source['weight']:g}",
            f"{texts:,}",
            f"{size / 1e6:.1f}",
            f"{tokens:,}",
            f"{size / tokens:.2f}" if tokens else "",
            f"{source['exact_duplicates'] + source['near_duplicates']:,}",
            f"{source['documents']['validation']:,}",
            shares(source["languages"]),
        )
    Console().print(table)
    train, held = manifest["splits"]["train"], manifest["splits"]["validation"]
    print(f"{out}: {train['tokens']:,} tokens to train on, {held['tokens']:,} held out")


class Refused:
    """Says which rows are left out: the first ones each, then how many more."""

    shown = 20

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, error: EverloopError) -> None:
        self.count += 1
        if self.count <= self.shown:
            _say(f"left out: {error}")

    def sum_up(self) -> None:
        """After the last row."""
        if self.count > self.shown:
            _say(f"left out: {self.count - self.shown} more rows")


def _say(message: str) -> None:
    print(message, file=sys.stderr)

"""`everloop data`: look at data, and pack it for training."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everloop.cli.flags import takes_settings
from everloop.settings import Settings

if TYPE_CHECKING:
    from everloop.data.counts import Progress

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def data() -> None:
    """Inspect, clean, deduplicate and pack data."""


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

    refused: list[str] = []

    def refuse(error: Exception) -> None:
        refused.append(str(error))
        if len(refused) <= 20:
            _say(f"left out: {error}")

    with _progress() as report:
        manifest = packing.pack(
            sources.load(spec, settings.data),
            tokenizer,
            out,
            options=packing.PackOptions(
                val_fraction=val_fraction, max_tokens=max_tokens, seed=seed
            ),
            on_progress=report,
            on_note=_say,
            on_refusal=refuse if skip_bad_rows else None,
        )
    if len(refused) > 20:
        _say(f"left out: {len(refused) - 20} more rows")
    if as_json:
        print(json.dumps(manifest, ensure_ascii=False, indent=1))
    else:
        _print_manifest(manifest, out)


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
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

    table = Table(box=None, pad_edge=False)
    table.add_column("source")
    for name in ("weight", "documents", "MB", "tokens", "bytes/token", "copies", "held out"):
        table.add_column(name, justify="right")
    table.add_column("languages")
    for source in manifest["sources"]:
        tokens = sum(source["tokens"].values())
        size = sum(source["bytes"].values())
        languages = sorted(source["languages"].items(), key=lambda item: -item[1])
        table.add_row(
            source["name"],
            f"{source['weight']:g}",
            f"{sum(source['documents'].values()):,}",
            f"{size / 1e6:.1f}",
            f"{tokens:,}",
            f"{size / tokens:.2f}" if tokens else "",
            f"{source['exact_duplicates'] + source['near_duplicates']:,}",
            f"{source['documents']['validation']:,}",
            " ".join(f"{code} {n:,}" for code, n in languages[:3]),
        )
    Console().print(table)
    train, held = manifest["splits"]["train"], manifest["splits"]["validation"]
    print(f"{out}: {train['tokens']:,} tokens to train on, {held['tokens']:,} held out")


def _say(message: str) -> None:
    print(message, file=sys.stderr)

"""What `everloop data inspect` prints."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from everloop.data.inspection import Inspection

_PREVIEW_CHARS = 600
_TARGET, _CONTEXT = "bold green", "dim"


def show(found: Inspection, console: Console | None = None) -> None:
    """Print the findings; in the previews, what is learnt is green."""
    console = console or Console(highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(found):
        if value:
            table.add_row(name, value)
    console.print(table)
    for finding in found.findings:
        console.print(f"look: {finding}", markup=False)
    for note in found.notes:
        console.print(f"note: {note}", markup=False)
    for refusal in found.refusals:
        where = found.path if refusal.line is None else f"{found.path}:{refusal.line}"
        console.print(Text(f"{where}: ", style="red") + f"{refusal.reason} {refusal.repair}")
    if found.refused > len(found.refusals):
        console.print(f"… and {found.refused - len(found.refusals)} more rows refused")
    for number, runs in enumerate(found.previews, 1):
        learnt = "" if found.kind == "text" else " (learnt: green)"
        console.print(f"\n[bold]{number}[/bold]{learnt}")
        console.print(_coloured(runs, found.kind))


def _facts(found: Inspection) -> list[tuple[str, str]]:
    kind = f"{found.kind}, {found.layout}" if found.layout else found.kind
    share = found.target_tokens / found.total_tokens if found.total_tokens else 0
    return [
        ("file", f"{found.path} ({found.format})"),
        ("used as", kind),
        ("columns", ", ".join(found.columns)),
        ("rows", f"{found.rows:,}; usable {found.documents:,}; {found.bytes / 1e6:.2f} MB"),
        ("languages", shares(found.languages)),
        ("tasks", shares(found.tasks)),
        ("characters", _range(found.chars)),
        ("tokens", _range(found.tokens)),
        (
            "bytes/token",
            f"{found.bytes_per_token:.2f}; {found.total_tokens:,} tokens, {share:.0%} learnt"
            if found.total_tokens
            else "",
        ),
        ("copies", f"{found.exact_copies:,} exact, {found.near_copies:,} near"),
        ("too short", f"{found.too_short:,}" if found.too_short else ""),
        ("cleaned", ", ".join(f"{step} {n:,}" for step, n in found.cleaned.items())),
        ("refused", f"{found.refused:,}" if found.refused else ""),
    ]


def shares(counts: Mapping[str, int], most: int = 4) -> str:
    """ "zh 90%, en 10%": the largest parts of a count."""
    total = sum(counts.values())
    largest = sorted(counts.items(), key=lambda item: -item[1])[:most]
    return ", ".join(f"{name} {n / total:.0%}" for name, n in largest)


def _range(quantiles: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in quantiles.items())


def _coloured(runs: list[tuple[str, bool]], kind: str) -> Text:
    text = Text()
    for part, target in runs:
        left = _PREVIEW_CHARS - len(text)
        if left <= 0:
            text.append(" …")
            break
        text.append(part[:left], style="" if kind == "text" else _TARGET if target else _CONTEXT)
    return text

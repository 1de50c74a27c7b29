"""Results as a table: in the terminal, and in the pages docs/performance*.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .chart import MODELS, points
from .goals import GOALS, middle
from .measures import ROWS, Measure, Unit

if TYPE_CHECKING:
    from rich.table import Table

BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
"""What stands between them in a page is written by the bench; all else is hand-written."""

COLUMNS = ("everloop", "llama.cpp", "openvino")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One row of the table: a measure with one of its goals (the first line has the numbers)."""

    measure: Measure
    cells: tuple[str, ...]
    limit: str
    value: str
    bound: str
    met: bool | None


def lines(results: Mapping[str, Any], *, chinese: bool = False) -> list[Line]:
    """The rows that `results` has, in order, one line a goal."""
    made = []
    for measure in ROWS:
        series = results["values"].get(measure.name)
        if series is None:
            continue
        goals = [goal for goal in GOALS if goal.measure == measure.name]
        for i, goal in enumerate(goals):
            found = goal.value(series)
            value = "–"
            if found is not None:
                number = f"{found:.0%}" if goal.percent else f"{found:.3g}"
                number = f"{found:.3f}" if measure.unit == "perplexity" else number
                value = f"{number} {goal.text_zh if chinese else goal.text}"
            made.append(
                Line(
                    measure=measure,
                    cells=_cells(measure, series) if i == 0 else ("",) * len(COLUMNS),
                    limit=_limit(series) if i == 0 else "",
                    value=value,
                    bound=goal.bound,
                    met=goal.met(series),
                )
            )
    return made


def _cells(measure: Measure, series: Mapping[str, Sequence[float]]) -> tuple[str, ...]:
    """By side: the median of its first series, the others behind it in brackets."""
    cells = []
    for column in COLUMNS:
        own = middle(series, column)
        text = "–" if own is None else number(own, measure.unit)
        others = [
            f"{name.removeprefix(column)[2:-1]} {number(value, measure.unit)}"
            for name in series
            if name.startswith(f"{column} (") and "same tokens" not in name
            if (value := middle(series, name)) is not None
        ]
        cells.append(f"{text} ({', '.join(others)})" if others else text)
    return tuple(cells)


def _limit(series: Mapping[str, Sequence[float]]) -> str:
    limit, own = middle(series, "limit"), middle(series, "everloop")
    if limit is None or own is None:
        file = middle(series, "file")
        return "" if file is None else f"{file:,.0f} MB"
    return f"{limit:,.0f} ({own / limit:.0%})"


def number(value: float, unit: Unit) -> str:
    """A value in its unit, with as many digits as it deserves."""
    match unit:
        case "tok/s":
            return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
        case "s":
            if value < 1:
                return f"{1000 * value:.3g} ms"
            return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
        case "ms":
            return f"{value:.1f} ms"
        case "perplexity":
            return f"{value:.2f}"
        case "MB":
            return f"{value:,.0f} MB"


def show(results: Mapping[str, Any]) -> None:
    """Prints the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=headline(results), title_justify="left")
    for name in ("", "Everloop", "llama.cpp", "OpenVINO", "limit"):
        table.add_column(name, justify="left" if not name else "right")
    for name in ("ratio", "goal", ""):
        table.add_column(name)
    before = ""
    for line in lines(results):
        title = line.measure.title if line.measure.name != before else ""
        before = line.measure.name
        mark = {True: "[green]met[/]", False: "[red]not met[/]", None: "–"}[line.met]
        table.add_row(title, *line.cells, line.limit, line.value, line.bound, mark)
    console = Console(width=None if Console().is_terminal else 190)
    if table.row_count:
        console.print(table)
    for curve in _curves(results):
        console.print(curve)
    for note in notes(results):
        console.print(note, style="dim", highlight=False, markup=False)


def _curves(results: Mapping[str, Any]) -> Iterable[Table]:
    """The points of each curve: tokens a second by streams or by the prompt's length."""
    from rich.table import Table

    for model, name in MODELS.items():
        for kind, of in (("streams", "streams"), ("prompt", "prompt tokens")):
            sides = points(results, kind, model)
            ticks = sorted({n for values in sides.values() for n, _ in values})
            if ticks:
                table = Table(title=f"{name}: tokens/s by {of}", title_justify="left")
                table.add_column("")
                for tick in ticks:
                    table.add_column(str(tick), justify="right")
                for side, values in sides.items():
                    known = dict(values)
                    cells = [number(known[n], "tok/s") if n in known else "–" for n in ticks]
                    table.add_row(side, *cells)
                yield table


def headline(results: Mapping[str, Any]) -> str:
    about = results["machine"]
    return (
        f"{about['processor']}, {about['cores']} cores, {results['when'][:10]}; medians of "
        f"{results['repeats']}, tokens/s unless said otherwise"
    )


def notes(results: Mapping[str, Any]) -> Iterable[str]:
    """Why something is missing."""
    for measure, sides in results["skipped"].items():
        for side, reason in sides.items():
            yield f"{measure}, {side}: {' '.join(reason.split())[:300]}"


# ---- pages ----

HEAD = (
    "|  | Everloop | llama.cpp | OpenVINO | limit (reached) | ratio | goal | met |",
    "|  | Everloop | llama.cpp | OpenVINO | 极限（达到） | 比值 | 目标 | 达成 |",
)


def section(results: Mapping[str, Any], *, chinese: bool = False) -> str:
    """What goes between the markers of a page."""
    about, limits = results["machine"], results["limits"]
    versions = ", ".join(f"{name} {value}" for name, value in results["versions"].items())
    memory, int8, bf16 = (_by_threads(limits[name]) for name in limits)
    instructions = ", ".join(about["instructions"])
    if chinese:
        parts = [
            f"{results['when'][:10]} 测于 {about['processor']}，{about['cores']} 核，"
            f"{about['memory GiB']} GiB 内存（{instructions}），{about['system']}；{versions}。"
            f"取 {results['repeats']} 次的中位数，除注明外单位为词元/秒。",
            f"机器的极限（1 线程 / 全部核心）：读内存 {memory} GB/s，int8 {int8} GOP/s，"
            f"bf16 {bf16} GFLOP/s。困惑度文本：{_sources(results)}。",
        ]
    else:
        parts = [
            f"Measured {results['when'][:10]} on {about['processor']}, {about['cores']} cores, "
            f"{about['memory GiB']} GiB ({instructions}), {about['system']}; {versions}. Medians "
            f"of {results['repeats']}, tokens a second unless said otherwise.",
            f"Limits of the machine (1 thread / all cores): {memory} GB/s read from memory, "
            f"{int8} GOP/s in int8, {bf16} GFLOP/s in bf16. Text for perplexity: "
            f"{_sources(results)}.",
        ]
    table = [HEAD[chinese], "|---|---:|---:|---:|---:|---|---|---|"]
    before = ""
    for line in lines(results, chinese=chinese):
        title = line.measure.title_zh if chinese else line.measure.title
        title, before = ("" if line.measure.name == before else title), line.measure.name
        met = {True: "✓", False: "✗", None: "–"}[line.met]
        cells = (title, *line.cells, line.limit, line.value, line.bound, met)
        table.append("| " + " | ".join(cells) + " |")
    parts.append("\n".join(table))
    if any(name.startswith("growth-") for name in results["values"]):
        words = (
            "路数和提示变长时的速度与等待"
            if chinese
            else "Speed and waiting as streams and prompts grow"
        )
        parts.append(f"![{words}](performance.png)")
    missing = "\n".join(f"- {note}" for note in notes(results))
    if missing:
        parts.append(("没有测到的：" if chinese else "Not measured:") + f"\n\n{missing}")
    return "\n\n".join(parts)


def _by_threads(values: Mapping[str, float]) -> str:
    return " / ".join(f"{value:,.0f}" for value in values.values())


def _sources(results: Mapping[str, Any]) -> str:
    return ", ".join(dict.fromkeys(results["text"].values())) or "–"


def write_pages(results: Mapping[str, Any], docs: Path) -> None:
    """Replaces what stands between the markers of both pages."""
    for name, chinese in (("performance.md", False), ("performance.zh-CN.md", True)):
        path = docs / name
        path.write_text(
            replaced(path.read_text(encoding="utf-8"), section(results, chinese=chinese)),
            encoding="utf-8",
        )


def replaced(page: str, new: str) -> str:
    """The page with `new` between its markers. Raises ValueError if it hasn't one of each."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"The page needs one line {BEGIN} and one line {END}.")
    pattern = re.compile(re.escape(BEGIN) + ".*" + re.escape(END), re.DOTALL)
    return pattern.sub(lambda _: f"{BEGIN}\n{new}\n{END}", page)

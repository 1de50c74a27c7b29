"""Pictures of a report as inline SVG: no script, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from everloop.evaluate.words import text

WIDTH, LABELS, VALUES, ROW = 920, 250, 150, 26
TOP, BOTTOM = 8, 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One line of a forest plot: a value with its interval, perhaps beside another's value.
    `label` and `shown` are SVG, `kind` is a class: model, good, bad or open."""

    label: str
    value: float
    low: float
    high: float
    shown: str
    beside: float | None = None
    kind: str = "model"
    heading: str = ""


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers from `low` to `high`."""
    span = max(high - low, 1e-9)
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= 6)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def forest(dots: Sequence[Dot], *, title: str, low: float, high: float, zero: bool = False) -> str:
    """Values with intervals, one line each; `zero` draws the line of no difference."""
    rows = len(dots) + sum(bool(dot.heading) for dot in dots)
    height = TOP + ROW * rows + BOTTOM
    room = WIDTH - LABELS - VALUES

    def x(value: float) -> float:
        return LABELS + room * (min(max(value, low), high) - low) / ((high - low) or 1)

    parts = []
    for tick in ticks(low, high):
        at = x(tick)
        parts.append(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
            f'<text class="tick" x="{at:.1f}" y="{height - 10}">{_number(tick, zero)}</text>'
        )
    if zero:
        parts.append(
            f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{TOP}" '
            f'y2="{height - BOTTOM}"/>'
        )
    y = TOP + ROW / 2
    for dot in dots:
        if dot.heading:
            parts.append(f'<text class="group" x="0" y="{y + 5:.1f}">{dot.heading}</text>')
            y += ROW
        parts.append(_line(dot, y, x))
        y += ROW
    return _svg(WIDTH, height, title, parts)


def _line(dot: Dot, y: float, x: Callable[[float], float]) -> str:
    beside = ""
    if dot.beside is not None:
        at = x(dot.beside)
        beside = f'<path class="beside" d="M{at:.1f} {y - 6:.1f}l6 6-6 6-6-6z"/>'
    return (
        f'<g class="{dot.kind}"><text x="14" y="{y + 4:.1f}">{dot.label}</text>'
        f'<line class="range" x1="{x(dot.low):.1f}" x2="{x(dot.high):.1f}" y1="{y:.1f}" '
        f'y2="{y:.1f}"/>'
        f'{beside}<circle cx="{x(dot.value):.1f}" cy="{y:.1f}" r="5"/>'
        f'<text class="value" x="{WIDTH}" y="{y + 4:.1f}">{dot.shown}</text></g>'
    )


def reliability(bins: Iterable[Sequence[float]], *, title: str) -> str:
    """Share of right answers over confidence; bins are (rows, confidence, right), bars as wide as
    the bin, shaded by how many rows it has."""
    size, left, bottom = 150, 26, 20
    table = list(bins)
    most = max((rows for rows, _, _ in table), default=0) or 1
    parts = [
        f'<rect class="frame" x="{left}" y="4" width="{size}" height="{size}"/>',
        f'<line class="zero" x1="{left}" y1="{size + 4}" x2="{left + size}" y2="4"/>',
    ]
    width = size / len(table)
    for i, (rows, sure, right) in enumerate(table):
        if not rows:
            continue
        height = size * right / rows
        parts.append(
            f'<rect class="bar" x="{left + i * width + 1:.1f}" y="{size + 4 - height:.1f}" '
            f'width="{width - 2:.1f}" height="{height:.1f}" '
            f'opacity="{0.25 + 0.75 * rows / most:.2f}">'
            f"<title>{rows:.0f}: {sure / rows:.2f} → {right / rows:.2f}</title></rect>"
        )
    for value in (0, 0.5, 1):
        parts.append(
            f'<text class="tick" x="{left + size * value:.0f}" y="{size + 20}">{value:g}</text>'
            f'<text class="value tick-y" x="{left - 4}" y="{size + 8 - size * value:.0f}">'
            f"{value:g}</text>"
        )
    return _svg(left + size + 10, size + 4 + bottom, title, parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A line of a chart: values with intervals, one for each position."""

    name: str
    points: Sequence[tuple[float, float, float]]


def lines(positions: Sequence[str], series: Sequence[Series], *, title: str) -> str:
    """Values over positions with their intervals as bands; values are 0 to 100."""
    width, height, left, bottom, right = 420, 220, 34, 26, 120
    room = width - left - right
    every = [v for each in series for point in each.points for v in point]
    low, high = min([*every, 100]) // 10 * 10, 100

    def x(i: int) -> float:
        return left + room * i / max(len(positions) - 1, 1)

    def y(value: float) -> float:
        return 8 + (height - bottom - 8) * (high - value) / ((high - low) or 1)

    parts = [
        f'<line class="grid" x1="{left}" x2="{left + room}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text class="value tick-y" x="{left - 5}" y="{y(t) + 4:.1f}">{t:g}</text>'
        for t in ticks(low, high)
    ]
    parts += [
        f'<text class="tick" x="{x(i):.1f}" y="{height - 8}">{text(name)}</text>'
        for i, name in enumerate(positions)
    ]
    for number, each in enumerate(series):
        upper = [f"{x(i):.1f},{y(p[2]):.1f}" for i, p in enumerate(each.points)]
        lower = [f"{x(i):.1f},{y(p[1]):.1f}" for i, p in enumerate(each.points)]
        middle = [f"{x(i):.1f},{y(p[0]):.1f}" for i, p in enumerate(each.points)]
        end = y(each.points[-1][0]) if each.points else 0
        parts.append(
            f'<g class="s{number % 6}"><polygon points="{" ".join([*upper, *reversed(lower)])}"/>'
            f'<polyline points="{" ".join(middle)}"/>'
            f'<text x="{left + room + 8}" y="{end + 4:.1f}">{each.name}</text></g>'
        )
    return _svg(width, height, title, parts)


def _number(value: float, sign: bool) -> str:
    return f"{value:+g}" if sign and value else f"{value:g}"


def _svg(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" '
        f'aria-label="{text(title)}">{"".join(parts)}</svg>'
    )

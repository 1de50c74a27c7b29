"""The sections of the page that are pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from everloop.evaluate import plots
from everloop.evaluate.report import TASKS, figure, first, interval, left_alone
from everloop.evaluate.words import baseline, both, folded, metric, table, text

Report = Mapping[str, Any]
HUNDRED = ("chrF", "BLEU")  # on a scale to 100 without being shares
SEVERITY = "accuracy, severity "


def scale(result: Mapping[str, Any], name: str) -> float:
    """What takes a metric to 0…100; 0 where it has no such scale."""
    return 100.0 if result["percent"][name] else 1.0 if name in HUNDRED else 0.0


def task_name(task: str, tag: str = "span") -> str:
    """What a task is called."""
    return both(*TASKS.get(task, (task, task)), tag)


def overview(results: Sequence[Mapping[str, Any]]) -> str:
    dots, task = [], ""
    for result in results:
        name = first(result)
        times = scale(result, name)
        if not times:
            continue
        estimate = result["metrics"][name]
        simple = next(iter(result["baselines"].values()), None)
        arrow = "" if result["higher_is_better"][name] else " ↓"
        dots.append(
            plots.Dot(
                label=_label(result),
                value=times * estimate["value"],
                low=times * estimate["low"],
                high=times * estimate["high"],
                beside=None if simple is None else times * simple[name]["value"],
                shown=text(interval(estimate, result["percent"][name])),
                heading=""
                if result["task"] == task
                else f"{task_name(result['task'], 'tspan')} · {metric(name, 'tspan')}{arrow}",
            )
        )
        task = result["task"]
    if not dots:
        return ""
    told = both(
        "One number for each set with its 95 % interval, beside what a simple method learnt from "
        "the same training rows.",
        "每个数据集一个数，带 95% 区间；旁边是简单方法用同一份训练数据学到的结果。",
        "p",
    )
    key = (
        f"<figcaption><i class=key></i>{both('the model', '模型')}"
        f"<i class='key beside'></i>{both('simple baseline', '简单基线')}</figcaption>"
    )
    drawn = plots.forest(dots, title="Numbers of all suites", low=0, high=100)
    return f"<h2>{both('Overview', '总览')}</h2>{told}<figure>{drawn}{key}</figure>"


def _label(result: Mapping[str, Any]) -> str:
    title = result["title"] if len(result["title"]) <= 26 else f"{result['title'][:25]}…"
    return f"{text(title)} ({text(result['lang'])})"


def _verdict(estimate: Mapping[str, float], higher: bool) -> str:
    if estimate["low"] <= 0 <= estimate["high"]:
        return "open"
    return "good" if (estimate["value"] > 0) == higher else "bad"


def above(results: Sequence[Mapping[str, Any]]) -> str:
    """Differences from the baseline; the good side is always the right one."""
    some = [r for r in results if r["above_baseline"] and scale(r, first(r))]
    if not some:
        return ""
    lines = [(r, first(r), r["above_baseline"], r["higher_is_better"][first(r)]) for r in some]
    kinds = [_verdict(estimate, higher) for _, _, estimate, higher in lines]
    counted = {kind: kinds.count(kind) for kind in ("good", "bad", "open")}
    told = both(
        f"{counted['good']} of {len(some)} sets are surely above the baseline, "
        f"{counted['bad']} surely below, {counted['open']} undecided (paired bootstrap on the "
        "same rows; right is better).",
        f"{len(some)} 个数据集中，{counted['good']} 个确定高于基线，{counted['bad']} 个确定低于，"
        f"{counted['open']} 个未定（同题配对自助法；越靠右越好）。",
        "p",
    )
    dots, task = [], ""
    for r, name, estimate, higher in lines:
        heading = "" if r["task"] == task else task_name(r["task"], "tspan")
        task = r["task"]
        dots.append(_difference(r, estimate, higher, scale(r, name), r["percent"][name], heading))
    drawn = _diverging(dots, "Differences from the baseline")
    return f"<h2>{both('Above the simple baseline', '与简单基线之差')}</h2>{told}{drawn}"


def _difference(
    result: Mapping[str, Any],
    estimate: Mapping[str, float],
    higher: bool,
    times: float,
    percent: bool,
    heading: str = "",
) -> plots.Dot:
    sign = times if higher else -times
    ends = sorted((sign * estimate["low"], sign * estimate["high"]))
    return plots.Dot(
        label=_label(result),
        heading=heading,
        value=sign * estimate["value"],
        low=ends[0],
        high=ends[1],
        shown=text(interval(estimate, percent, sign=True)),
        kind=_verdict(estimate, higher),
    )


def _diverging(dots: Sequence[plots.Dot], title: str) -> str:
    most = max(5.0, *(max(abs(dot.low), abs(dot.high)) for dot in dots))
    drawn = plots.forest(dots, title=title, low=-most, high=most, zero=True)
    return f"<figure>{drawn}</figure>"


def compared(report: Report, other: Mapping[str, Any]) -> str:
    name, theirs = report["model"]["name"], other["model"]["name"]
    dots = []
    for result in other["results"]:
        key, found = next(iter(result["metrics"].items()))
        times = 100.0 if found["percent"] else 1.0 if key in HUNDRED else 0.0
        if times:
            dots.append(
                _difference(
                    result,
                    found["above"],
                    found["higher_is_better"],
                    times,
                    found["percent"],
                )
            )
    rows = [
        [
            text(result["name"]),
            f"{metric(key)} {'↑' if found['higher_is_better'] else '↓'}",
            text(figure(found["ours"]["value"], found["percent"])),
            text(figure(found["theirs"]["value"], found["percent"])),
            f"<span class={_kind(found['better'])}>"
            f"{text(interval(found['above'], found['percent'], sign=True))}</span>",
        ]
        for result in other["results"]
        for key, found in result["metrics"].items()
    ]
    columns = [both("suite", "任务"), both("metric", "指标"), text(name), text(theirs)]
    grid = table([*columns, both("difference", "差")], rows)
    told = both(
        f"{name} beside {theirs} ({other['date'][:10]}) on the same rows; right is better for "
        f"{name}. Intervals are paired.",
        f"{name} 与 {theirs}（{other['date'][:10]}）在同样的题目上比较；"
        f"越靠右 {name} 越好。区间为配对区间。",
        "p",
    )
    remarks = "".join(f"<p class=soft>{text(remark)}</p>" for remark in left_alone(other))
    drawn = _diverging(dots, f"{name} beside {theirs}") if dots else ""
    every = folded(both("Every metric", "全部指标"), grid)
    return f"<h2>{both(f'Beside {theirs}', f'与 {theirs} 相比')}</h2>{told}{drawn}{remarks}{every}"


def _kind(better: bool | None) -> str:
    return {True: "good", False: "bad", None: "open"}[better]


def reliability(results: Iterable[Mapping[str, Any]]) -> str:
    cells = []
    for result in results:
        bins = result["details"].get("reliability")
        if not bins or not any(rows for rows, _, _ in bins):
            continue
        error = figure(result["metrics"]["calibration error"]["value"], True)
        title = f"Reliability of {result['name']}"
        cells.append(
            f"<figure><h3>{_label(result)}</h3>{plots.reliability(bins, title=title)}"
            f"<figcaption>{metric('calibration error')} {error}</figcaption></figure>"
        )
    if not cells:
        return ""
    told = both(
        "Share of right answers (up) for each confidence (right). On the dashed line the model "
        "knows how sure it may be; below it, it is too sure. Darker bars have more rows.",
        "各置信度（横轴）下答对的比例（纵轴）。落在虚线上说明自信恰当，低于虚线说明过于自信。"
        "颜色越深题数越多。",
        "p",
    )
    grid = f"<div class=grid-of>{''.join(cells)}</div>"
    return f"<h2>{both('Does it know what it knows?', '自知之明')}</h2>{told}{grid}"


def curves(results: Iterable[Mapping[str, Any]]) -> str:
    """Accuracy over the severity of noise, the model's beside the baseline's."""
    cells = []
    for result in results:
        severities = [n for n in result["metrics"] if n.startswith(SEVERITY)]
        if result["task"] != "robustness" or "clean accuracy" not in result["metrics"]:
            continue
        names = ["clean accuracy", *sorted(severities)]
        said = {both("model", "模型", "tspan"): result["metrics"]}
        for simple, metrics in result["baselines"].items():
            said[baseline(simple, "tspan")] = metrics
            break
        series = [
            plots.Series(
                name=who,
                points=[
                    tuple(100 * metrics[name][part] for part in ("value", "low", "high"))
                    for name in names
                ],
            )
            for who, metrics in said.items()
        ]
        positions = ["0", *(name.removeprefix(SEVERITY) for name in sorted(severities))]
        drawn = plots.lines(positions, series, title=f"Accuracy under noise: {result['name']}")
        cells.append(f"<figure><h3>{_label(result)}</h3>{drawn}</figure>")
    if not cells:
        return ""
    told = both(
        "Accuracy (up) over the severity of noise (right), with 95 % intervals over rows.",
        "准确率（纵轴）随噪声强度（横轴）的变化，带按题的 95% 区间。",
        "p",
    )
    grid = f"<div class='grid-of wide'>{''.join(cells)}</div>"
    return f"<h2>{both('Under noise', '噪声之下')}</h2>{told}{grid}"

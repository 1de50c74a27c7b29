"""The evaluation as one HTML page that opens from disk: both languages, light and dark, pictures
as inline SVG, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from everloop.evaluate.pictures import above, compared, curves, overview, reliability, task_name
from everloop.evaluate.report import conditions, figure, first
from everloop.evaluate.suite_page import detail
from everloop.evaluate.words import both, folded, metric, table, text

Report = Mapping[str, Any]

# The language of the reader's browser is a good first guess; the switch does the rest.
_GUESS = "if(/^zh/i.test(navigator.language))document.getElementById('zh').checked=true"


def page(report: Report) -> str:
    """The whole page."""
    model, results = report["model"], report["results"]
    sections = [
        _header(report),
        "<main>",
        _tiles(results),
        overview(results),
        above(results),
        *(compared(report, other) for other in report["compared"]),
        curves(results),
        reliability(results),
        _findings(report),
        _missing(report),
        f"<h2>{both('Suite by suite', '逐项')}</h2>",
        *(detail(result) for result in results),
        f"<footer>{text(conditions(report))}</footer></main>",
    ]
    style = (files("everloop.evaluate") / "page.css").read_text("utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(model['name'])}: evaluation · 评测</title><style>{style}</style></head>"
        f"<body>{''.join(sections)}<script>{_GUESS}</script></body></html>\n"
    )


def _header(report: Report) -> str:
    model = report["model"]
    version = f" · {text(model['version'])}" if model["version"] else ""
    sha = f" · SHA-256 <code>{text(model['sha256'][:16])}…</code>" if model["sha256"] else ""
    themes = [("auto", "auto", "自动"), ("light", "light", "浅色"), ("dark", "dark", "深色")]
    return (
        "<header>"
        + _switch("lang", [("en", "English", "English"), ("zh", "中文", "中文")])
        + _switch("theme", themes)
        + f"<h1>{text(model['name'])}</h1><p class=soft>{both('Evaluation', '评测')}{version} · "
        f"{text(report['date'][:10])}{sha}</p></header>"
    )


def _switch(name: str, options: Sequence[tuple[str, str, str]]) -> str:
    parts = (
        f"<label><input type=radio name={name} id={key}{'' if i else ' checked'}>"
        f"{both(english, chinese)}</label>"
        for i, (key, english, chinese) in enumerate(options)
    )
    return f"<span class=switch>{''.join(parts)}</span>"


def _tiles(results: Sequence[Mapping[str, Any]]) -> str:
    """One number for each task: the mean over its sets, beside the baselines'."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for result in results:
        lang = result["lang"] if result["task"] in ("held-out", "dialogue", "minimal-pairs") else ""
        groups.setdefault((result["task"], first(result), lang), []).append(result)
    tiles = []
    for (task, name, lang), some in groups.items():
        percent = some[0]["percent"][name]
        simple = [next(iter(r["baselines"].values()))[name] for r in some if r["baselines"]]
        ours = sum(r["metrics"][name]["value"] for r in some) / len(some)
        beside = ""
        if len(simple) == len(some):
            theirs = figure(sum(e["value"] for e in simple) / len(some), percent)
            beside = f" · {both(f'baseline {theirs}', f'基线 {theirs}')}"
        arrow = "↑" if some[0]["higher_is_better"][name] else "↓"
        sets = both(f"{len(some)} sets", f"{len(some)} 个数据集") if len(some) > 1 else ""
        tiles.append(
            f"<div class=tile><span>{task_name(task)} {lang}</span><b>{figure(ours, percent)}</b>"
            f"<span class=soft>{metric(name)} {arrow}{beside}{' · ' if sets else ''}{sets}"
            "</span></div>"
        )
    return f"<div class=tiles>{''.join(tiles)}</div>"


def _findings(report: Report) -> str:
    rows = [
        [text(result["name"]), text(finding["said"]), text(finding["done"])]
        for result in report["results"]
        for finding in result["findings"]
    ]
    if not rows:
        return ""
    columns = [both("suite", "任务"), both("found", "发现"), both("done about it", "处理")]
    return f"<h2>{both('About the rows', '关于题目')}</h2>{table(columns, rows)}"


def _missing(report: Report) -> str:
    if not report["missing"]:
        return ""
    rows = [[text(name), text(why)] for name, why in report["missing"].items()]
    heading = both("Not measured", "未测")
    grid = table([both("suite", "任务"), both("why", "原因")], rows)
    return f"<h2>{heading}</h2>{folded(str(len(rows)), grid)}"

"""One suite on the page, folded: its metrics, labels, commonest mistakes, samples and data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from everloop.evaluate.report import figure, first, interval
from everloop.evaluate.words import baseline, both, metric, table, text

SHOWN = 400  # characters of a sample's text
MANY_LABELS = 30  # more are too long a table


def detail(result: Mapping[str, Any]) -> str:
    """The suite as `<details>`."""
    name = first(result)
    value = text(interval(result["metrics"][name], result["percent"][name]))
    learnt = result["train_rows"]
    rows = both(
        f"{result['rows']:,} rows" + (f", baselines learnt from {learnt:,}" if learnt else ""),
        f"{result['rows']:,} 题" + (f"，基线用 {learnt:,} 条训练" if learnt else ""),
    )
    return (
        f"<details id='{text(result['name'])}'><summary><b>{text(result['name'])}</b>"
        f"<span class=soft>{metric(name)}</span><span>{value}</span></summary><div>"
        f"<p class=soft>{text(result['title'])} · {rows}</p>{''.join(_parts(result))}"
        "</div></details>"
    )


def _parts(result: Mapping[str, Any]) -> Iterator[str]:
    yield _metrics(result)
    labels = result["details"].get("labels", {})
    if 0 < len(labels) <= MANY_LABELS:
        yield _labels(labels)
    if severity := result["details"].get("severity"):
        yield _severity(severity, result["details"].get("held_out", []))
    if phenomena := result["details"].get("phenomena"):
        yield _phenomena(phenomena)
    if mistaken := result["details"].get("confusions"):
        rows = [[text(a), text(b) or "–", f"{n:.0f}"] for a, b, n in mistaken]
        heading = both("Commonest mistakes", "最常见的错误")
        columns = [both("right", "正确"), both("said", "回答"), both("rows", "题数")]
        yield f"<h3>{heading}</h3>{table(columns, rows)}"
    if result["samples"]:
        yield _samples(result)
    yield _data(result)


def _metrics(result: Mapping[str, Any]) -> str:
    columns = [both("metric", "指标"), both("model", "模型")]
    columns += [baseline(name) for name in result["baselines"]]
    rows = []
    for name, estimate in result["metrics"].items():
        percent = result["percent"][name]
        arrow = "↑" if result["higher_is_better"][name] else "↓"
        simple = [interval(each[name], percent) for each in result["baselines"].values()]
        rows.append([f"{metric(name)} {arrow}", interval(estimate, percent), *simple])
    return table(columns, rows)


def _labels(labels: Mapping[str, tuple[float, float, float]]) -> str:
    rows = []
    for label, (right, predicted, actual) in labels.items():
        precision = figure(right / predicted, True) if predicted else "–"
        recall = figure(right / actual, True) if actual else "–"
        rows.append([text(label), f"{actual:.0f}", f"{predicted:.0f}", precision, recall])
    columns = [both("label", "标签"), both("rows", "题数"), both("said", "回答数")]
    columns += [metric("precision"), metric("recall")]
    return f"<h3>{both('Labels', '各标签')}</h3>{table(columns, rows)}"


def _severity(families: Mapping[str, Mapping[str, float]], held_out: Sequence[str]) -> str:
    steps = list(next(iter(families.values()), {}))
    rows = [
        [
            text(name) + (f" <i>({both('never trained on', '未训练过')})</i>" * (name in held_out)),
            *(figure(values[step], True) for step in steps),
        ]
        for name, values in families.items()
    ]
    heading = both("Accuracy by noise and severity", "各类噪声、各强度下的准确率")
    columns = [both("noise", "噪声"), *steps]
    return f"<h3>{heading}</h3>{table(columns, rows)}"


def _phenomena(phenomena: Mapping[str, tuple[int, int]]) -> str:
    rows = [
        [text(name), figure(right / rows, True), f"{rows:,}"]
        for name, (right, rows) in phenomena.items()
    ]
    columns = [both("phenomenon", "现象"), metric("accuracy"), both("rows", "题数")]
    return table(columns, rows)


def _samples(result: Mapping[str, Any]) -> str:
    answered = any(sample["expected"] for sample in result["samples"])
    columns = [both("asked", "题目"), both("expected", "应答"), both("said", "回答")]
    rows = [
        [_cut(sample["asked"]), _cut(sample["expected"]), _cut(sample["said"])]
        for sample in result["samples"]
    ]
    if not answered:
        columns.pop(1)
        rows = [[asked, said] for asked, _, said in rows]
    told = both("the first by hash, not chosen", "按哈希排在最前的，未经挑选")
    return (
        f"<h3>{both('Samples', '样例')} <span class=soft>{told}</span></h3>{table(columns, rows)}"
    )


def _cut(value: str) -> str:
    return text(value if len(value) <= SHOWN else f"{value[:SHOWN]}…")


def _data(result: Mapping[str, Any]) -> str:
    where = f" · github.com/{text(result['origin'])}" if result["origin"] else ""
    sums = "".join(
        f"<br>{text(file)} <code>{text(sha256)}</code>" for file, sha256 in result["files"].items()
    )
    asked = both("rows asked", "所问题目")
    return f"<p class=soft>{asked} <code>{text(result['rows_hash'])}</code>{where}{sums}</p>"

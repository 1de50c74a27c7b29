"""The evaluation as Markdown, from its JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SHOWN = 160  # characters of a sample's text

TASKS = {
    "held-out": ("bits per byte", "每字节比特数"),
    "dialogue": ("small talk", "闲聊"),
    "sentiment": ("sentiment", "情感"),
    "topic": ("topic", "主题"),
    "classify": ("classification", "分类"),
    "spam": ("spam", "垃圾信息"),
    "intent": ("intent", "意图"),
    "translate": ("translation", "翻译"),
    "correct": ("correction", "纠错"),
    "edit": ("edit", "编辑"),
    "title": ("title", "标题"),
    "summarize": ("summary", "摘要"),
    "answer": ("reading", "阅读"),
    "pairs": ("sentence pairs", "句对"),
    "minimal-pairs": ("grammar", "语法"),
    "chat": ("conversation", "对话"),
    "service": ("service", "客服"),
    "robustness": ("robustness", "稳健性"),
}


def figure(value: float, percent: bool) -> str:
    """A value for print: percent with one digit, anything else with two."""
    return f"{100 * value:.1f}" if percent else f"{value:.2f}"


def interval(estimate: Mapping[str, float], percent: bool, *, sign: bool = False) -> str:
    """A value with its 95 % interval, if it has one."""
    value, low, high = (figure(estimate[part], percent) for part in ("value", "low", "high"))
    if sign and estimate["value"] > 0:
        value = f"+{value}"
    return value if low == high else f"{value} [{low}, {high}]"


def first(result: Mapping[str, Any]) -> str:
    """The name of the one number of a task."""
    return str(next(iter(result["metrics"])))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; bars and line ends in cells are made harmless."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("\\", "\\\\").replace("|", "\\|")


def headline(report: Mapping[str, Any], *, chinese: bool = False) -> str:
    """One number for each task beside its strongest baseline."""
    columns = (
        ("任务", "数据", "语言", "指标", "模型", "简单基线", "差", "题数 / 基线训练数")
        if chinese
        else (
            "task",
            "data",
            "lang",
            "metric",
            "model",
            "simple baseline",
            "above it",
            "rows / learnt",
        )
    )
    return table(columns, (_line(result, chinese) for result in report["results"]))


def _line(result: Mapping[str, Any], chinese: bool) -> list[str]:
    name = first(result)
    percent = result["percent"][name]
    arrow = "↑" if result["higher_is_better"][name] else "↓"
    baseline, above = "–", "–"
    for simple, metrics in result["baselines"].items():  # the strongest comes first
        baseline = f"{interval(metrics[name], percent)} ({simple})"
        above = interval(result["above_baseline"], percent)
        break
    learnt = f" / {result['train_rows']:,}" if result["train_rows"] else ""
    return [
        TASKS.get(result["task"], (result["task"],) * 2)[chinese],
        result["title"],
        result["lang"],
        f"{name} {arrow}",
        interval(result["metrics"][name], percent),
        baseline,
        above,
        f"{result['rows']:,}{learnt}",
    ]


DIFFERENCE_COLUMNS = (
    ("suite", "metric", "model", "other", "difference", "rows", ""),
    ("任务", "指标", "模型", "对方", "差", "题数", ""),
)
_VERDICTS = {True: ("better", "更好"), False: ("worse", "更差"), None: ("undecided", "未定")}


def differences(other: Mapping[str, Any], *, chinese: bool = False) -> list[list[str]]:
    """Lines of a comparison: the first metric of each suite."""
    lines = []
    for result in other["results"]:
        name, found = next(iter(result["metrics"].items()))
        percent = found["percent"]
        lines.append(
            [
                result["name"],
                f"{name} {'↑' if found['higher_is_better'] else '↓'}",
                figure(found["ours"]["value"], percent),
                figure(found["theirs"]["value"], percent),
                interval(found["above"], percent, sign=True),
                f"{result['rows']:,}",
                _VERDICTS[found["better"]][chinese],
            ]
        )
    return lines


def left_alone(other: Mapping[str, Any]) -> list[str]:
    """What a comparison doesn't cover, in sentences."""
    name = other["model"]["name"]
    told = []
    if other["only_here"]:
        told.append(f"Not in {name}'s report: {', '.join(other['only_here'])}.")
    if other["only_there"]:
        told.append(f"Only in {name}'s report: {', '.join(other['only_there'])}.")
    if not other["same_version"]:
        told.append(
            f"{name} was measured by Everloop {other['everloop']}, which may ask in other words."
        )
    return told


def every_metric(report: Mapping[str, Any]) -> str:
    """All metrics of the model and of all baselines."""
    rows = []
    for result in report["results"]:
        said = {"model": result["metrics"], **result["baselines"]}
        for who, metrics in said.items():
            values = (
                f"{name} {interval(estimate, result['percent'][name])}"
                for name, estimate in metrics.items()
            )
            rows.append([result["name"], who, "; ".join(values)])
    return table(["suite", "by", "metrics"], rows)


def samples(report: Mapping[str, Any]) -> str:
    """What was asked, expected and said: the first rows in the order of their hash."""
    parts = []
    for result in report["results"]:
        columns = ["asked", "expected", "said"]
        rows = [[_cut(s[name]) for name in columns] for s in result["samples"]]
        if result["task"] == "dialogue":
            columns, rows = ["asked", "said"], [[asked, said] for asked, _, said in rows]
        parts.append(f"### {result['name']}: {result['title']}\n\n{table(columns, rows)}")
    return "\n\n".join(parts)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def conditions(report: Mapping[str, Any]) -> str:
    """Where, when and how."""
    machine, versions = report["machine"], report["versions"]
    limit = f"at most {report['limit']} rows a suite" if report["limit"] else "all rows"
    return (
        f"{report['date']}, {machine['processor']}, {machine['cores']} cores, {machine['system']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f"; {limit}, seed {report['seed']}, {report['seconds']:.0f} s."
    )


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report."""
    model = report["model"]
    parts = [
        f"# Evaluation of {model['name']}",
        " ".join(
            filter(
                None,
                (
                    f"Version {model['version']}." if model["version"] else "",
                    f"SHA-256 `{model['sha256']}`." if model["sha256"] else "",
                    conditions(report),
                ),
            )
        ),
        "Percent, except for chrF, BLEU and bits per byte. In brackets: 95 % intervals (Wilson for "
        "shares, else bootstrap over rows). Baselines learn from the training rows of the same "
        "set. “Above it” is the difference on the same rows (paired bootstrap).",
        headline(report),
    ]
    long = [r for r in report["results"] if r["too_long"]]
    if long:
        told = ", ".join(f"{r['too_long']} of {r['name']}" for r in long)
        parts.append(f"Too long for the model's context, and counted as wrong: {told}.")
    for other in report["compared"]:
        lines = [table(DIFFERENCE_COLUMNS[False], differences(other)), *left_alone(other)]
        heading = f"## Beside {other['model']['name']}\n\n{other['date']}, on the same rows."
        parts.append("\n\n".join([heading, *lines]))
    odd = [
        [result["name"], finding["said"], finding["done"]]
        for result in report["results"]
        for finding in result["findings"]
    ]
    if odd:
        parts.append(f"## About the rows\n\n{table(['suite', 'found', 'done about it'], odd)}")
    if report["missing"]:
        told = "\n".join(f"- {name}: {why}" for name, why in report["missing"].items())
        parts.append(f"## Not measured\n\n{told}")
    parts += [f"## Every metric\n\n{every_metric(report)}", f"## Samples\n\n{samples(report)}"]
    rows = [
        [result["name"], result["origin"], result["rows_hash"], file, sha256[:16]]
        for result in report["results"]
        for file, sha256 in (result["files"] or {"": ""}).items()
    ]
    columns = ["suite", "origin (GitHub)", "rows asked", "file", "SHA-256"]
    parts.append(f"## Data\n\n{table(columns, rows)}")
    return "\n\n".join(parts) + "\n"

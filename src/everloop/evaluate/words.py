"""What the HTML page says, in both languages at once: the page shows the one that is chosen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

METRICS: Final[Mapping[str, str]] = {
    "accuracy": "准确率",
    "macro-F1": "宏平均 F1",
    "calibration error": "校准误差",
    "precision": "精确率",
    "recall": "召回率",
    "harm to correct text": "误改率",
    "exact match": "完全匹配",
    "bits per byte": "每字节比特数",
    "repetition-4": "四元重复率",
    "distinct-1": "一元多样性",
    "distinct-2": "二元多样性",
    "in the language asked": "语言相符",
    "came to an end": "完整收尾",
    "empty": "空回答",
    "words a reply": "每答字词数",
    "refused though answered": "有答案却拒答",
    "refused where unanswered": "无答案时拒答",
    "perplexity": "困惑度",
    "clean accuracy": "无噪声准确率",
    "held-out noise": "未训练过的噪声",
    "lost at severity 3": "强度 3 时的损失",
    "consistency": "一致性",
    "attack success": "攻击成功率",
}
BASELINES: Final[Mapping[str, str]] = {
    "TF-IDF + logistic regression": "TF-IDF + 逻辑回归",
    "most frequent label": "最多的标签",
    "word-for-word dictionary": "逐词词典",
    "confusion table": "混淆表",
    "copy": "照抄",
    "first sentence": "首句",
    "sentence most like the question": "与问题最像的一句",
    "n-gram model": "n 元模型",
    "shorter sentence": "较短的一句",
}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def text(value: object) -> str:
    """Any text, safe in HTML and SVG."""
    return escape(_CONTROL.sub("\ufffd", str(value)))


def both(english: str, chinese: str, tag: str = "span") -> str:
    """Both languages; the style sheet hides one. In SVG the tag is tspan."""
    if english == chinese:
        return text(english)
    return (
        f'<{tag} class="en" lang="en">{text(english)}</{tag}>'
        f'<{tag} class="zh" lang="zh">{text(chinese)}</{tag}>'
    )


def metric(name: str, tag: str = "span") -> str:
    """The name of a metric, perhaps one at a severity of noise."""
    plain, _, severity = name.partition(", severity ")
    chinese = METRICS.get(plain, plain)
    return both(name, f"{chinese}（强度 {severity}）" if severity else chinese, tag)


def baseline(name: str, tag: str = "span") -> str:
    """The name of a baseline."""
    return both(name, BASELINES.get(name, name), tag)


def folded(heading: str, content: str) -> str:
    """Something to open, both parts being HTML."""
    return f"<details><summary><b>{heading}</b></summary><div>{content}</div></details>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table of cells that are HTML already."""
    head = "".join(f"<th>{cell}</th>" for cell in columns)
    body = "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

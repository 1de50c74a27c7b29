"""The model card: what the evaluation and the training wrote down, in both languages, around a
part written by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everloop.errors import NotFound
from everloop.evaluate.report import conditions, headline, table

RUN = "run.json"
DATA_HEADING = "Where the data comes from"

_FRONT = """---
license: apache-2.0
language:
- en
- zh
pipeline_tag: text-generation
library_name: transformers
tags:
- everloop
---
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """The part written by hand: what the model is and what it can't do, and the data's origins."""

    english: str = ""
    chinese: str = ""
    data: str = ""


def about(folder: Path) -> About:
    """Reads `card.en.md`, `card.zh.md` and the data section of `README.md` of a recipe."""
    texts = {}
    for name in ("card.en.md", "card.zh.md", "README.md"):
        path = folder / name
        if not path.is_file():
            raise NotFound(
                f"{path} not found. --about needs a folder with card.en.md, card.zh.md and a "
                f"README.md with a section “{DATA_HEADING}”.",
                param="about",
            )
        texts[name] = path.read_text("utf-8").strip()
    return About(
        english=texts["card.en.md"],
        chinese=texts["card.zh.md"],
        data=section(texts["README.md"], DATA_HEADING),
    )


def section(markdown: str, heading: str) -> str:
    """What stands under a second-level heading; empty if there is none."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", markdown, re.M | re.S)
    return found[1].strip() if found else ""


def runs(model: Path) -> list[dict[str, Any]]:
    """The training runs behind a model directory, first to last; none if it has no `run.json`."""
    path = model / RUN
    found: list[dict[str, Any]] = []
    run: dict[str, Any] | None = json.loads(path.read_text("utf-8")) if path.is_file() else None
    while run is not None:
        found.insert(0, run)
        run = run.get("base")
    return found


def card(report: Mapping[str, Any], history: Sequence[Mapping[str, Any]], told: About) -> str:
    """The card as Markdown: English, then Chinese."""
    name = report["model"]["name"]
    words = (_ENGLISH, _CHINESE)
    parts = [f"{_FRONT}\n# {name}"]
    for language, by_hand in zip(words, (told.english, told.chinese), strict=True):
        parts += _half(report, history, by_hand, told.data, language)
    return "\n\n".join(part for part in parts if part) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """The headings and sentences of one language."""

    chinese: bool
    title: str
    numbers: str
    explained: str
    missing: str
    talk: str
    talk_explained: str
    talk_columns: tuple[str, str]
    made: str
    made_columns: tuple[str, ...]
    read: str
    read_columns: tuple[str, ...]
    origins: str
    kinds: Mapping[str, str] = field(default_factory=dict)


_ENGLISH = _Words(
    chinese=False,
    title="",
    numbers="## Numbers",
    explained="Percent, except for chrF, BLEU and bits per byte; in brackets 95 % intervals. "
    "Validation rows are cut from public training files by a hash of their content and were never "
    "trained on; each baseline learnt from the training rows of the same set. Made by "
    "`everloop evaluate {name}`: {conditions}",
    missing="Not measured: {names}.",
    talk="## Small talk",
    talk_explained="All prompts, none selected, at temperature 0.7, top-p 0.9 and seed {seed}. "
    "The greetings and the questions for the weather, its name and what it can do also occur in "
    "the training rows.",
    talk_columns=("prompt", "reply"),
    made="## How it was made",
    made_columns=(
        "stage",
        "parameters",
        "of them in matmuls",
        "tokens",
        "FLOPs",
        "minutes",
        "machine",
    ),
    read="## What it read",
    read_columns=("source", "tokens", "weight"),
    origins="### Where the data comes from",
    kinds={"pretrain": "pretraining", "finetune": "tuning", "lora": "tuning (LoRA)"},
)

_CHINESE = _Words(
    chinese=True,
    title="---\n\n# 中文",
    numbers="## 数据表现",
    explained="除 chrF、BLEU 和每字节比特数外均为百分数；方括号内为 95% 区间。"
    "验证题按内容哈希从公开训练文件中切出，从未参与训练；每个基线都用同一数据集的训练部分学习。"
    "由 `everloop evaluate {name}` 得出：{conditions}",
    missing="未测：{names}。",
    talk="## 闲聊",
    talk_explained="全部提示，未经挑选；温度 0.7，top-p 0.9，种子 {seed}。"
    "问候以及问天气、名字、会做什么的句子在训练数据里也出现过。",
    talk_columns=("提示", "回答"),
    made="## 训练过程",
    made_columns=("阶段", "参数", "其中矩阵乘法", "词元", "浮点运算", "分钟", "机器"),
    read="## 读过的数据",
    read_columns=("来源", "词元", "权重"),
    origins="### 数据来源",
    kinds={"pretrain": "预训练", "finetune": "微调", "lora": "微调（LoRA）"},
)


def _half(
    report: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    by_hand: str,
    origins: str,
    words: _Words,
) -> list[str]:
    model = report["model"]
    parts = [
        words.title,
        by_hand,
        words.numbers,
        headline(report, chinese=words.chinese),
        words.explained.format(name=model["name"], conditions=conditions(report)),
    ]
    if report["missing"]:
        parts.append(words.missing.format(names=", ".join(report["missing"])))
    lang = "zh" if words.chinese else "en"
    talk = [
        [sample["asked"], sample["said"]]
        for result in report["results"]
        if result["task"] == "dialogue" and result["lang"] == lang
        for sample in result["samples"]
    ]
    if talk:
        told = words.talk_explained.format(seed=report["seed"])
        parts += [words.talk, told, table(words.talk_columns, talk)]
    if history:
        parts += [words.made, table(words.made_columns, [_stage(run, words) for run in history])]
        parts += [words.read, table(words.read_columns, _sources(history))]
    if origins:
        # The table names sets and licences: it is the same in both languages, so it stands once.
        parts += ["" if words.chinese else f"{words.origins}\n\n{origins}"]
    return parts


def _stage(run: Mapping[str, Any], words: _Words) -> list[str]:
    machine = run["machine"]
    return [
        words.kinds.get(run["kind"], run["kind"]),
        f"{run['parameters'] / 1e6:.2f} M",
        f"{run['matmul_parameters'] / 1e6:.2f} M",
        f"{run['tokens'] / 1e6:,.1f} M",
        f"{run['flops']:.2e}",
        f"{run['seconds'] / 60:.0f}",
        f"{machine.get('gpu') or machine['cpu']}, torch {machine['torch']}, {run['precision']}",
    ]


def _sources(history: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [source["name"], f"{_tokens(source['tokens']):,}", f"{source.get('weight', 1):g}"]
        for run in history
        for source in run["data"]["sources"]
    ]


def _tokens(counted: Any) -> int:
    """A count, or the training part of one for each split."""
    return int(counted["train"] if isinstance(counted, Mapping) else counted)

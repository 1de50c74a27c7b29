"""Edits that have one right answer: replace a word, change the script, split a
sentence in two or join two. They teach the form of an edit: instruction, then the text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from convert.chinese import Converter
from convert.common import (
    Item,
    chance,
    chinese_share,
    detokenize,
    load_lines,
    load_rows,
    pick,
    side,
    turns,
)
from convert.correction import plain
from convert.translation import tidy
from everloop.data.instructions import instruction

REPLACE = {
    "zh": ("把“{a}”换成“{b}”。", "把“{a}”改成“{b}”。", "将“{a}”替换为“{b}”。"),
    "en": ('Replace "{a}" with "{b}".', 'Change "{a}" to "{b}".', "Replace {a} with {b}."),
}
# Words of a row can stand for each other, so that the edited sentence is still a good one.
KINDS = {
    "zh": (
        "汤姆 玛丽 小明 小红 小李 老王 张伟 李娜", "苹果 香蕉 橙子 西瓜 葡萄 草莓",
        "咖啡 牛奶 果汁 啤酒 红茶", "星期一 星期二 星期三 星期四 星期五 星期六 星期天",
        "今天 明天 后天 昨天", "早上 上午 中午 下午 晚上", "波士顿 北京 上海 纽约 伦敦 东京 巴黎",
        "法语 英语 汉语 德语 日语", "红色 蓝色 绿色 黄色 白色 黑色", "爸爸 妈妈 哥哥 姐姐",
        "喜欢 讨厌", "学校 医院 公司 图书馆 车站 超市", "老师 医生 学生 律师 司机 警察",
        "报纸 杂志 小说", "狗 猫 鸟 兔子", "汽车 自行车 公共汽车 火车 飞机", "厨房 花园 办公室",
    ),
    "en": (
        "Tom Mary John Lucy Peter Anna Jack Emma", "Boston Paris London Tokyo Berlin Rome",
        "Monday Tuesday Wednesday Thursday Friday Saturday Sunday", "today tomorrow yesterday",
        "morning afternoon evening", "French English Chinese German Spanish Japanese",
        "red blue green yellow white black", "coffee tea milk juice beer water",
        "dog cat bird horse", "father mother brother sister uncle friend", "two three four five",
        "book letter newspaper map", "school hospital office library station park",
        "teacher doctor student lawyer nurse", "car bike train bus plane", "happy sad tired angry",
        "house room garden kitchen", "big small old new", "hot cold", "summer winter spring",
    ),
}  # fmt: skip
SCRIPT = {
    "traditional": ("转换成繁体字。", "改成繁体。", "用繁体字写。"),
    "simplified": ("转换成简体字。", "改成简体。", "用简体字写。"),
}
SPLIT = ("Split this sentence into two shorter ones.", "Break this into two sentences.")
JOIN = ("Combine these sentences into one.", "Join these two sentences into one.")
ROWS = 6_000  # of each kind


def edit(lang: str, source: str, told: str, before: str, after: str, key: str) -> Item:
    """One edit; `key` decides its side."""
    return Item(
        task="edit",
        lang=lang,
        source=source,
        side=side(key),
        messages=turns(instruction("edit", lang, instruction=told, input=before), after),
        fields={"instruction": told, "src": before, "tgt": after},
    )


def words(data: Path) -> Iterator[Item]:
    """Replace a word of an everyday sentence by another of its kind."""
    simplify = Converter.load(data, "TS")
    kinds = {
        lang: {word: row.split() for row in rows for word in row.split()}
        for lang, rows in KINDS.items()
    }
    for row in load_rows(data, "parallel/tatoeba_train.jsonl.zst"):
        for lang, text in (("zh", tidy(simplify(row["zh"]))), ("en", row["en"].strip())):
            if lang == "zh":
                found = [word for word in kinds[lang] if word in text]
            else:
                found = [word for word in re.findall(r"[A-Za-z]+", text) if word in kinds[lang]]
            if not found or not plain(text, lang):
                continue
            a = pick(found, text, 52)
            b = pick([word for word in kinds[lang][a] if word != a], text, 53)
            told = pick(REPLACE[lang], text, 55).format(a=a, b=b)
            after = text.replace(a, b) if lang == "zh" else re.sub(rf"\b{a}\b", b, text)
            yield edit(lang, f"words-{lang}", told, text, after, text)


def script(data: Path) -> Iterator[Item]:
    """Simplified to traditional characters and back."""
    simplify, traditional = Converter.load(data, "TS"), Converter.load(data, "ST")
    texts = {tidy(simplify(r["zh"])) for r in load_rows(data, "parallel/tatoeba_train.jsonl.zst")}
    for text in sorted(texts, key=lambda t: (chance(t, 56), t))[:ROWS]:
        other = traditional(text)
        if chinese_share(text) < 0.7 or simplify(other) != text:
            continue
        if chance(text, 57) < 0.5:
            yield edit("zh", "script", pick(SCRIPT["traditional"], text, 58), text, other, text)
        else:
            yield edit("zh", "script", pick(SCRIPT["simplified"], text, 58), other, text, text)


def shared(a: str, b: str) -> float:
    """The smaller share of words of one text that the other has too."""
    ours, theirs = (set(re.findall(r"\w+", text.lower())) for text in (a, b))
    return len(ours & theirs) / max(len(ours), len(theirs), 1)


def splits(data: Path) -> Iterator[Item]:
    """WikiSplit: one long sentence and the two that say the same."""
    rows = []
    for name in ("tune", "validation"):
        for line in load_lines(data, f"editing/en_wikisplit_{name}.tsv.zst"):
            whole, _, parts = line.partition("\t")
            whole, two = detokenize(whole), detokenize(parts.replace("<::::>", " "))
            if (
                len(whole) <= 220
                and re.fullmatch(r"[A-Z][\w ,;:'()-]+\.", whole)
                and '"' not in two
            ):
                rows.append((whole, two))
    for whole, two in rows:
        if shared(whole, two) < 0.85:  # the halves often say more than the whole
            continue
        if chance(whole, 59) < 0.6:
            yield edit("en", "wikisplit", pick(SPLIT, whole, 60), whole, two, whole)
        else:
            yield edit("en", "wikisplit", pick(JOIN, whole, 60), two, whole, whole)


def items(data: Path) -> Iterator[Item]:
    """All of them."""
    yield from words(data)
    yield from script(data)
    yield from splits(data)

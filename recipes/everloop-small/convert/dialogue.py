"""Conversation: short everyday chat, and what a service says without knowing any facts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from convert.common import Item, Messages, chance, chinese_share, load_rows, side, turns

_NOISE = re.compile(
    r"http|www|@|#|\[|\]|【|】|回复|转发|微博|粉丝|楼主|链接|图片|视频|截图|头像|评论|关注|小号|打榜"
)
_RUDE = re.compile(
    r"屁|滚|妈的|他妈|傻[逼叉比X×]|煞笔|卧槽|我[草操艹靠擦]|[尼泥]玛|操你|干你|狗日|贱|婊|鸡巴|"
    r"逼|死|杀|色情|做爱|睡了?你|强奸|脱|胸|裸|大爷的|变态|脑残|智障|白痴|去你|丑|骚|奶子|尿|屎|"
    r"麻痹|麻批|龟|爹|神经病|蠢|艾滋|毒|赌|嫖|政府|共产|台独|鬼子|习近平|主席"
)
_FACES = re.compile(r"[~～^_`…•·]+")


def clean_chat(said: list[str]) -> list[str]:
    """Turns of a chat without noise, or nothing if one turn is unfit."""
    out = []
    for text in said:
        text = re.sub(r"(?<=\d) (?=\d)", "", _FACES.sub("，", text)).strip("，、 ")
        text = re.sub(r"(.)\1{3,}", r"\1\1\1", text)
        text = re.sub(r"，+([。！？，])|([。！？])，+", r"\1\2", text)
        if _NOISE.search(text) or _RUDE.search(text) or not 2 <= len(text) <= 60:
            return []
        if chinese_share(text) < 0.7:
            return []
        out.append(text)
    return out


_ENDS = "。！？!?…"
_ASKING = re.compile(r"[吗呢么？?]|什么|怎么|哪|谁|几|多少|为何|是不是|有没有|要不要|好不好")
_COMMON = set(
    "的了是我你他她它们这那不有也就都在和很吧吗呢啊么呀哦嗯哈一个说人到去来上会要好没还可"
)


def fits(prompt: str, reply: str) -> bool:
    """Whether a reply plainly belongs to the prompt: it takes up a word of it, or answers a
    question with a sentence."""
    words = {prompt[i : i + 2] for i in range(len(prompt) - 1)}
    shared = {
        pair
        for pair in words
        if pair in reply and chinese_share(pair) == 1 and not set(pair) & _COMMON
    }
    copied = len(set(reply) & set(prompt)) > 0.8 * len(set(reply))
    return bool(shared) and not copied and len(reply) >= 4 and bool(_ASKING.search(prompt))


def _ended(text: str) -> str:
    if text[-1] in _ENDS:
        return text
    return text + ("？" if _ASKING.search(text[-3:]) else "。")


def chat(data: Path) -> Iterator[Item]:
    """LCCC, filtered hard: one question and a reply that takes it up."""
    for row in load_rows(data, "dialogue/zh_lccc_base_valid.jsonl.zst"):
        said = clean_chat(row["turns"][:2])
        if len(said) < 2 or not all(4 <= len(text) <= 30 for text in said):
            continue
        if not fits(said[0], said[1]):
            continue
        yield Item(
            task="chat",
            lang="zh",
            source="lccc",
            side=side(said[0]),
            messages=turns(*map(_ended, said)),
            fields={"messages": turns(_ended(said[0])), "reference": _ended(said[1])},
        )


_FACT = re.compile(r"\d|(?<![.!?] )(?<!^)\b[A-Z][a-z]+")
_ALLOWED = {
    "I",
    "Sure",
    "Okay",
    "Ok",
    "Thanks",
    "Thank",
    "You",
    "Please",
    "Confirming",
    "Yes",
    "Great",
}


def knowing_nothing(said: list[str]) -> list[str]:
    """The turns up to the first assistant turn that tells a number or a name that the customer
    hasn't said: a model must not learn to invent those."""
    heard = ""
    for i, text in enumerate(said):
        if i % 2:
            told = {m.group() for m in _FACT.finditer(text)} - _ALLOWED
            if any(word not in heard for word in told):
                return said[: i - 1]
        heard += " " + text
    return said


def services(data: Path) -> Iterator[Item]:
    """Beginnings of SGD dialogues before the first fact, and their polite ends; coffee orders."""
    for name, source in (("en_sgd_train", "sgd"), ("en_taskmaster4", "taskmaster")):
        for row in load_rows(data, f"dialogue/{name}.jsonl.zst"):
            said = [text.strip() for _, text in row["turns"]]
            who = [speaker.upper() for speaker, _ in row["turns"]]
            if who[0] != "U" or any(a == b for a, b in pairwise(who)):
                continue
            start = knowing_nothing(said)[:8]
            start = start[: len(start) // 2 * 2]
            parts = [start]
            polite = (
                source == "sgd" and len(said) % 2 == 0 and chance(row["id"] + said[-1], 81) < 0.12
            )
            if polite and knowing_nothing(said[-2:]):
                parts.append(said[-2:])
            for part in parts:
                if part:
                    yield _service(part, source, said[0])


def _service(said: list[str], source: str, key: str) -> Item:
    messages: Messages = turns(*said)
    return Item(
        task="service",
        lang="en",
        source=source,
        side=side(key),
        messages=messages,
        fields={"messages": messages[:-1], "reference": said[-1]},
    )


def items(data: Path) -> Iterator[Item]:
    """Chat and services."""
    yield from chat(data)
    yield from services(data)

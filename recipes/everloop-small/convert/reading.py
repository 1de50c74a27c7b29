"""Reading: answer from a passage (or say that it doesn't tell), give a title, say it in a
sentence, say it in other words."""

from __future__ import annotations

import html
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from convert.chinese import Converter
from convert.common import (
    Item,
    ask,
    chance,
    cut,
    load_json,
    load_lines,
    load_rows,
    normal,
    pick,
    shuffled,
    side,
    turns,
)
from convert.translation import tidy
from everloop.data.instructions import NOT_IN_PASSAGE

PASSAGE = {"zh": 160, "en": 500}  # characters
UNANSWERED = 0.18
FACT_QUESTIONS = 12_000
TITLES = 4_000  # of each encyclopaedia


def answered(
    lang: str, source: str, passage: str, question: str, answers: Sequence[str], key: str
) -> Item:
    """One question; without `answers` the passage doesn't tell."""
    answers = list(dict.fromkeys(answers)) or [NOT_IN_PASSAGE[lang]]
    fields = {"passage": passage, "question": question}
    return Item(
        task="answer",
        lang=lang,
        source=source,
        side=side(key),
        messages=turns(ask("answer", lang, question, **fields), answers[0]),
        fields={**fields, "answers": answers},
    )


def sentences(text: str) -> list[str]:
    """Sentences with their ends; Chinese or English."""
    return [s for s in re.split(r"(?<=[。！？；])|(?<=[.!?]) +", text) if s.strip()]


def around(context: str, answer: str, start: int, limit: int) -> str:
    """The sentence of the answer and as many beside it as fit into `limit` characters."""
    parts = sentences(context)
    at, seen = 0, 0
    while at < len(parts) - 1 and seen + len(parts[at]) <= start:
        seen += len(parts[at])
        at += 1
    first = last = at
    while True:
        size = sum(map(len, parts[first : last + 1]))
        if first > 0 and size + len(parts[first - 1]) <= limit:
            first -= 1
        elif last + 1 < len(parts) and size + len(parts[last + 1]) <= limit:
            last += 1
        else:
            break
    passage = "".join(parts[first : last + 1]).strip()
    return passage if answer in passage and len(passage) <= limit * 1.6 else ""


def spans(data: Path) -> Iterator[Item]:
    """CMRC 2018 (trial) and DRCD (simplified): the answer is a part of the passage."""
    simplify = Converter.load(data, "TS")
    cmrc = load_json(data, "qa/cmrc2018_trial.json.zst")["data"]
    drcd = load_json(data, "qa/drcd_dev.json.zst")["data"]
    for source, articles in (("cmrc", cmrc), ("drcd", drcd)):
        for article in articles:
            paragraphs = article["paragraphs"]
            for at, paragraph in enumerate(paragraphs):
                raw = paragraph["context"]
                context = simplify(raw)
                if len(context) != len(raw):
                    continue
                key = article.get("title") or raw  # an article stays on one side
                other = simplify(paragraphs[at - 1]["context"]) if at else ""
                for qa in paragraph["qas"]:
                    question = simplify(qa["question"]).strip()
                    texts = [simplify(a["text"]).strip() for a in qa["answers"]]
                    start = qa["answers"][0]["answer_start"]
                    if other and texts[0] not in other and chance(question, 61) < UNANSWERED:
                        elsewhere = cut(other, PASSAGE["zh"])
                        yield answered("zh", source, elsewhere, question, [], key)
                        continue
                    passage = around(context, texts[0], start, PASSAGE["zh"])
                    if passage and len(texts[0]) <= 40:
                        yield answered("zh", source, passage, question, texts, key)


def triples(data: Path) -> Iterator[Item]:
    """KgCLUE: the fact that answers a question, among facts about other things."""
    facts: list[tuple[str, str, str, str]] = []
    for name in ("train", "dev"):
        for row in load_rows(data, f"qa/zh_kgclue_{name}.jsonl.zst"):
            parts = [part.strip() for part in row["answer"].split("|||")]
            if len(parts) == 3 and all(parts) and len(parts[2]) <= 40 and len(parts[0]) <= 40:
                facts.append((row["question"].strip(), *parts))
    facts.sort(key=lambda fact: (chance(fact[0], 62), fact))
    told = [f"{thing}的{what}是{value}。" for _, thing, what, value in facts]
    for i, (question, thing, what, value) in enumerate(facts[:FACT_QUESTIONS]):
        places = [(i + k) % len(facts) for k in range(1, 2 + int(4 * chance(question, 63)))]
        others = [k for k in places if facts[k][1] != thing]
        known = chance(question, 64) >= UNANSWERED
        shown = [*([i] if known else []), *others]
        passage = "".join(told[k] for k in shuffled(shown, question, 65))
        # Another thing with the same attribute would make the question harder than a reader's.
        clash = any(facts[k][2] == what and facts[k][1][:2] == thing[:2] for k in others)
        if shown and not clash:
            yield answered("zh", "kgclue", passage, question, [value] if known else [], thing)


_THING = re.compile(r"餐馆|酒店|景点")
_ASKED = re.compile(r"地址|电话|评分|门票|票价|价格|营业时间|游玩时间|人均消费")
_WISH = re.compile(r"推荐|找|以上|以下|符合|周边|附近|要求|哪个|哪家")


def desks(data: Path) -> Iterator[Item]:
    """CrossWOZ: what a desk says about one restaurant, hotel or sight, as a passage; and the
    customer's questions about it. A question whose fact is taken out can't be answered."""
    for row in load_rows(data, "dialogue/zh_crosswoz_val.jsonl.zst"):
        said = [text.strip() for _, text in row["turns"]]
        told: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
        thing = ""
        for asked, reply in pairwise(said):
            thing = (_THING.findall(asked) or [thing])[-1]
            what = _ASKED.search(asked)
            if not thing or not what or len(asked) > 40 or _WISH.search(asked):
                continue
            if said_so := re.search(rf"{what[0]}(是|在|为)[^，。！？；,\n]{{2,40}}", reply):
                told[thing][what[0]] = (asked, said_so[0].replace("是在", "在") + "。")
        for thing, facts in told.items():
            for name, (asked, fact) in facts.items():
                others = [other for other_name, (_, other) in facts.items() if other_name != name]
                if not others:
                    continue
                known = chance(asked + fact, 75) >= UNANSWERED
                shown = shuffled([*([fact] if known else []), *others], fact, 76)
                passage = f"{thing}的信息：{''.join(shown)}"
                yield answered("zh", "crosswoz", passage, asked, [fact] if known else [], said[0])


# path in the factbook, the sentence, the questions
FACTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Government/Capital/name", "The capital of {c} is {v}.",
     ("What is the capital of {c}?", "Which city is the capital of {c}?")),
    ("People and Society/Population/total", "{c} has a population of {v}.",
     ("How many people live in {c}?", "What is the population of {c}?")),
    ("Geography/Area/total ", "The area of {c} is {v}.",
     ("How large is {c}?", "What is the area of {c}?")),
    ("Geography/Coastline", "The coastline of {c} is {v} long.",
     ("How long is the coastline of {c}?",)),
    ("Geography/Elevation/highest point", "The highest point of {c} is {v}.",
     ("What is the highest point of {c}?",)),
    ("Geography/Map references", "On a map, {c} is found under {v}.",
     ("Where on the map is {c}?",)),
    ("Geography/Natural resources", "The natural resources of {c} are {v}.",
     ("What natural resources does {c} have?",)),
    ("Geography/Climate", "The climate of {c} is {v}.", ("What is the climate of {c} like?",)),
    ("Government/Government type", "{c} is a {v}.", ("What kind of government does {c} have?",)),
    ("Government/National holiday", "The national holiday of {c} is {v}.",
     ("When is the national holiday of {c}?", "What is the national holiday of {c}?")),
    ("Government/National anthem(s)/title", "The national anthem of {c} is {v}.",
     ("What is the national anthem of {c} called?",)),
    ("Government/National color(s)", "The national colors of {c} are {v}.",
     ("What are the national colors of {c}?",)),
    ("Government/Country name/conventional long form", "The full name of {c} is {v}.",
     ("What is the full name of {c}?",)),
    ("Communications/Internet country code", "Web addresses in {c} end in {v}.",
     ("What do web addresses in {c} end in?",)),
    ("Economy/Agricultural products", "Farmers in {c} grow {v}.",
     ("What do farmers in {c} grow?", "Which crops are grown in {c}?")),
    ("Economy/Exports - partners", "The countries that buy most from {c} are {v}.",
     ("Which countries buy most from {c}?",)),
    ("Economy/Industries", "The main industries of {c} are {v}.",
     ("What are the main industries of {c}?",)),
    ("People and Society/Median age/total", "The median age in {c} is {v}.",
     ("What is the median age in {c}?",)),
    ("Transportation/Airports", "{c} has {v} airports.", ("How many airports does {c} have?",)),
)  # fmt: skip

DISPUTED = ("none", "Taiwan", "Kosovo", "Hong Kong", "Macau", "Gaza Strip", "West Bank")


def value_at(country: dict[str, Any], path: str) -> str:
    """A value of the factbook as plain text, without years and remarks; "" if there is none."""
    node: Any = country
    for part in path.split("/"):
        node = node.get(part, {}) if isinstance(node, dict) else {}
    text = re.sub(r"<[^>]*>", " ", html.unescape(node.get("text", "")))
    text = re.split(r"[;(]| note:|\s-\s", text)[0]
    text = re.sub(r"\s+", " ", text).strip(" .,\u00a0")
    return text if 1 < len(text) <= 90 and "NA" not in text else ""


def countries(data: Path) -> Iterator[Item]:
    """Four to six facts about a country and a question about one of them, or about another."""
    for row in load_rows(data, "qa/en_cia_factbook.jsonl.zst"):
        name = value_at(row["data"], "Government/Country name/conventional short form")
        if not name or name in DISPUTED:
            continue
        known = [
            (sentence.format(c=name, v=value), [q.format(c=name) for q in questions], value)
            for path, sentence, questions in FACTS
            if (value := value_at(row["data"], path)) and value != "none"
        ]
        for i, (_, questions, value) in enumerate(known):
            for question in questions:
                others = [k for k in range(len(known)) if k != i]
                some = shuffled(others, question, 66)[: 3 + int(3 * chance(question, 67))]
                told = chance(question, 68) >= UNANSWERED
                shown = shuffled([*([i] if told else []), *some], question, 69)
                passage = " ".join(known[k][0] for k in shown)
                yield answered(
                    "en", "factbook", cut(passage, 700), question, [value] if told else [], name
                )


_ADULT = re.compile(r"AV女|色情|成人影片|情色|pornograph", re.IGNORECASE)


def opening(text: str) -> str:
    """The first paragraph, without empty brackets and pronunciations."""
    first = text.strip().split("\n")[0]
    first = re.sub(r"\s*[（(][^（()）]*[）)]", "", first)
    return re.sub(r"。+", "。", re.sub(r"\s+", " ", first)).strip()


def varied(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs without most of those whose first sentences end alike: thousands of villages were
    described by one program."""
    count: dict[str, int] = defaultdict(int)
    kept = []
    for title, text in pairs:
        ending = sentences(text)[0].strip()[-6:]
        count[ending] += 1
        if count[ending] <= 12:
            kept.append((title, text))
    return kept


def wikipedia(data: Path) -> Iterator[Item]:
    """The title of a first paragraph; its first sentence as a summary."""
    for lang, names, longest in (
        ("zh", ("zh_wiki_simp",), 20),
        ("en", ("en_wiki_core", "en_wiki_more"), 40),
    ):
        found = []
        for name in names:
            for row in load_rows(data, f"pretrain/{name}.jsonl.zst"):
                title = re.sub(r"\s*[（(].*", "", row["title"]).strip()
                text = cut(opening(row["text"]), 180 if lang == "zh" else 500)
                whole = text[-1:] in ("。", ".") and len(text) > 4 * len(title)
                if (
                    whole
                    and not _ADULT.search(text)
                    and 2 <= len(title) <= longest
                    and title in text
                ):
                    found.append((title, text))
        found.sort(key=lambda pair: (chance(pair[0], 71), pair))
        found = varied(found)
        for title, text in [pair for pair in found if chance(pair[0], 74) < 0.5][:TITLES]:
            yield worded("title", lang, f"wiki-{lang}", text, title, title)
        for title, text in [pair for pair in found if chance(pair[0], 74) >= 0.5][:TITLES]:
            parts = sentences(text)
            first = parts[0].strip()
            if len(parts) >= 3 and first[-1] in "。." and len(first) <= len(text) * 0.6:
                yield worded("summarize", lang, f"wiki-{lang}", text, first, title)


def worded(task: str, lang: str, source: str, text: str, result: str, key: str) -> Item:
    """A text and what is made of it."""
    return Item(
        task=task,
        lang=lang,
        source=source,
        side=side(key),
        messages=turns(ask(task, lang, text, text=text), result),
        fields={"src": text, "tgt": result},
    )


def papers(data: Path) -> Iterator[Item]:
    """CSL: the title of an abstract."""
    for line in load_lines(data, "summ/zh_csl_ts_dev.tsv.zst"):
        _, abstract, title = line.split("\t")
        if len(abstract) <= 400:
            yield worded("title", "zh", "csl", abstract.strip(), title.strip(), title)


def paraphrases(data: Path) -> Iterator[Item]:
    """Two translations of one sentence say the same in other words."""
    simplify = Converter.load(data, "TS")
    rows = [
        (row["en"].strip(), tidy(simplify(row["zh"])))
        for row in load_rows(data, "parallel/tatoeba_train.jsonl.zst")
    ]
    for lang, source, target in (("zh", 0, 1), ("en", 1, 0)):
        same: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            same[row[source]].append(row[target])
        for key, texts in same.items():
            texts = sorted({normal(text): text for text in texts}.values())
            if len(texts) < 2 or side(rows_key(key, texts)) == "validation":
                continue
            a = pick(texts, key, 72)
            b = pick([text for text in texts if text != a], key, 73)
            if min(len(a), len(b)) >= (5 if lang == "zh" else 12):
                yield worded("rewrite", lang, f"tatoeba-{lang}", a, b, a)


def rows_key(key: str, texts: Sequence[str]) -> str:
    """A validation sentence of translation, if one is among them, else the first."""
    return next((text for text in (key, *texts) if side(text) == "validation"), key)


def items(data: Path) -> Iterator[Item]:
    """All of them."""
    for part in (spans, triples, desks, countries, wikipedia, papers, paraphrases):
        yield from part(data)

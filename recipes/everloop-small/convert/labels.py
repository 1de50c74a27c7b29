"""Sentiment, topic, spam and intent: a text in, a label word out."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from convert.common import (
    Item,
    Side,
    ask,
    chance,
    cut,
    detokenize,
    load_json,
    load_lines,
    load_rows,
    load_text,
    normal,
    pick,
    shuffled,
    side,
    turns,
)
from everloop.data.instructions import LABELS

AG = ("world", "sports", "business", "technology")
DBPEDIA = (
    "company", "school", "artist", "athlete", "politician", "vehicle", "building", "nature",
    "village", "animal", "plant", "album", "film", "book",
)  # fmt: skip
NEWSGROUPS = {
    "alt.atheism": "atheism", "comp.graphics": "computer graphics",
    "comp.os.ms-windows.misc": "Windows", "comp.sys.ibm.pc.hardware": "PC hardware",
    "comp.sys.mac.hardware": "Mac hardware", "comp.windows.x": "X Window",
    "misc.forsale": "for sale", "rec.autos": "cars", "rec.motorcycles": "motorcycles",
    "rec.sport.baseball": "baseball", "rec.sport.hockey": "hockey", "sci.crypt": "cryptography",
    "sci.electronics": "electronics", "sci.med": "medicine", "sci.space": "space",
    "soc.religion.christian": "Christianity", "talk.politics.guns": "guns",
    "talk.politics.mideast": "Middle East", "talk.politics.misc": "politics",
    "talk.religion.misc": "religion",
}  # fmt: skip
TOUTIAO = {
    "news_story": "故事", "news_culture": "文化", "news_entertainment": "娱乐",
    "news_sports": "体育", "news_finance": "财经", "news_house": "房产", "news_car": "汽车",
    "news_edu": "教育", "news_tech": "科技", "news_military": "军事", "news_travel": "旅游",
    "news_world": "国际", "news_stock": "股票", "news_agriculture": "农业", "news_game": "游戏",
}  # fmt: skip
THUCNEWS = {
    "finance": "财经", "realty": "房产", "stocks": "股票", "education": "教育", "science": "科技",
    "society": "社会", "politics": "时政", "sports": "体育", "game": "游戏",
    "entertainment": "娱乐",
}  # fmt: skip
EMOTION = ("anger", "joy", "optimism", "sadness")
SMP = {
    "cookbook": "查菜谱", "video": "看视频", "poetry": "查诗词", "epg": "查节目单",
    "train": "查火车票", "flight": "查机票", "music": "听音乐", "translation": "翻译",
    "message": "发短信", "news": "听新闻", "health": "问健康", "tvchannel": "换频道",
    "stock": "查股票", "telephone": "打电话", "website": "打开网站", "map": "查地图",
    "app": "打开应用", "cinemas": "查影院", "riddle": "猜谜语", "novel": "看小说",
    "bus": "查汽车票", "match": "查比赛", "lottery": "查彩票", "radio": "听电台",
    "email": "发邮件", "weather": "查天气", "contacts": "找联系人",
}  # fmt: skip
CSL = (
    "工学", "农学", "理学", "医学", "管理学", "法学", "教育学", "经济学", "文学", "哲学",
    "历史学", "艺术学", "军事学",
)  # fmt: skip


def fixed(
    task: str,
    lang: str,
    source: str,
    text: str,
    label: str,
    shown: str = "",
    at: Side | None = None,
) -> Item:
    """A row of a task whose labels are part of the instruction; `shown` is the text in training."""
    return Item(
        task=task,
        lang=lang,
        source=source,
        side=at or side(text),
        messages=turns(ask(task, lang, text, text=shown or text), label),
        fields={"text": text, "label": label, "labels": list(LABELS[task][lang])},
    )


def listed(
    task: str, lang: str, source: str, text: str, label: str, labels: Sequence[str], *, full: float
) -> Item:
    """A row with its labels in the instruction: all of them in their order for a share `full` of
    the rows, else some of them in any order."""
    shown = list(labels)
    if chance(text, 11) >= full:
        others = [x for x in labels if x != label]
        at_most = min(len(others), 7)
        count = pick(range(min(2, at_most), at_most + 1), text, 12)
        shown = shuffled([label, *shuffled(others, text, 13)[:count]], text, 14)
    return Item(
        task=task,
        lang=lang,
        source=source,
        side=side(text),
        messages=turns(ask(task, lang, text, text=text, labels=shown), label),
        fields={"text": text, "label": label, "labels": list(labels)},
    )


def sentiment(data: Path) -> Iterator[Item]:
    """Reviews of films, products, hotels and meals."""
    yield from film_sentences(data)
    for row in load_rows(data, "sentiment/en_imdb_train_half.jsonl.zst"):
        if len(row["text"]) <= 1500:
            text = ending(row["text"].strip(), 600)
            label = {"pos": "positive", "neg": "negative"}[row["label"]]
            yield fixed("sentiment", "en", "imdb", text, label, at=side(row["text"]))
    for row in load_rows(data, "sentiment/en_pros_cons.jsonl.zst"):
        if len(row["text"]) >= 10:
            label = ("negative", "positive")[row["label"]]
            yield fixed("sentiment", "en", "pros-cons", row["text"].strip(), label)
    for name, source in (
        ("waimai_10k", "waimai"),
        ("chnsenticorp_htl", "chnsenticorp"),
        ("online_shopping_10_cats", "online-shopping"),
    ):
        for row in load_rows(data, f"sentiment/zh_{name}.train.jsonl.zst"):
            text = cut(row["text"].strip(), 160)
            if len(text) >= 4:
                label = ("负面", "正面")[row["label"]]
                yield fixed("sentiment", "zh", source, text, label, at=side(row["text"]))


def ending(text: str, limit: int) -> str:
    """The last sentences, at most `limit` characters: a review's verdict usually comes last."""
    if len(text) <= limit:
        return text
    starts = (m.end() for m in re.finditer(r"[.!?]\s+", text) if len(text) - m.end() <= limit)
    return text[next(starts, len(text) - limit) :]


def film_sentences(data: Path) -> Iterator[Item]:
    """SST-2 phrases and MR sentences. SST-2's phrases are parts of MR's sentences, so a phrase
    goes where the longest text that contains it goes."""
    rows = [("mr", row["text"], row["label"]) for row in load_rows(
        data, "sentiment/en_mr_polarity.train.jsonl.zst")]  # fmt: skip
    for line in list(load_lines(data, "sentiment/en_sst2_train.tsv.zst"))[1:]:
        label, text = line.split("\t")[:2]
        rows.append(("sst2", text, int(label)))
    sides = sides_of_parts([text for _, text, _ in rows])
    for (source, raw, label), at in zip(rows, sides, strict=True):
        text = raw.strip()
        if len(text) < 3:
            continue
        shown = detokenize(text) if chance(text, 15) < 0.4 else text
        yield fixed("sentiment", "en", source, text, ("negative", "positive")[label], shown, at)


def sides_of_parts(texts: Sequence[str]) -> list[Side]:
    """The side of each text, where a text that is part of a longer one follows the longest."""
    plain = [" ".join(re.findall(r"[a-z0-9]+", text.lower())) for text in texts]
    order = sorted(range(len(texts)), key=lambda i: (-len(plain[i]), plain[i]))
    at_words: dict[tuple[str, ...], list[int]] = defaultdict(list)
    root: dict[int, int] = {}
    for i in order:
        words = plain[i].split()
        key = tuple(words[:3]) if len(words) >= 3 else tuple(words)
        part = f" {plain[i]} "
        root[i] = next((r for r in at_words.get(key, ()) if part in f" {plain[r]} "), i)
        if root[i] == i:
            for size in (1, 2, 3):
                for k in range(len(words) - size + 1):
                    at_words[tuple(words[k : k + size])].append(i)
    return [side(texts[root[i]]) for i in range(len(texts))]


_QUOTED = re.compile(
    r"^\s*([>|:#}]|\w{1,4}>).*$|^.*(writes|wrote|article\s*<).*$|^[\w-]+: .*$", re.M
)


def own_words(post: str) -> str:
    """A news-group post without quotes, mail headers and signature."""
    post = _QUOTED.sub("", re.split(r"\n-- ?\n", post)[0])
    return re.sub(r"\s+", " ", re.sub(r"[-=_*~]{3,}", " ", post)).strip()


def topic(data: Path) -> Iterator[Item]:
    """News, headlines, encyclopaedia entries, posts, titles of papers."""
    for name in ("train", "dev"):
        for row in load_rows(data, f"topic/en_agnews_{name}_small.jsonl.zst"):
            text = cut(row["text"].replace(" #39;", "'").replace("\\", " ").strip(), 400)
            yield listed("topic", "en", "agnews", text, AG[row["label"]], AG, full=0.75)
    for row in load_rows(data, "topic/en_dbpedia14_train.jsonl.zst"):
        text = cut(row["text"].strip(), 300)
        text = detokenize(text) if chance(text, 15) < 0.4 else text
        yield listed("topic", "en", "dbpedia", text, DBPEDIA[row["label"]], DBPEDIA, full=0.6)
    groups = tuple(NEWSGROUPS.values())
    for row in load_rows(data, "topic/en_20news_train.jsonl.zst"):
        text = cut(own_words(row["text"]), 500)
        if len(text) >= 60:
            label = NEWSGROUPS[row["label"]]
            yield listed("topic", "en", "20news", text, label, groups, full=0.6)
    topics = tuple(x for key, x in TOUTIAO.items() if key != "news_stock")
    for name in ("train", "dev"):
        for row in load_rows(data, f"topic/zh_toutiao_{name}.jsonl.zst"):
            if row["label"] not in TOUTIAO:  # one stray row
                continue
            label = TOUTIAO[row["label"]]
            yield listed("topic", "zh", "toutiao", row["text"].strip(), label, topics, full=0.6)
    for name in ("train", "dev"):
        for row in load_rows(data, f"topic/zh_tnews_{name}_few_all.json.zst"):
            label, text = TOUTIAO[row["label_desc"]], row["sentence"].strip()
            yield listed("topic", "zh", "tnews", text, label, tuple(TOUTIAO.values()), full=0.6)
    classes = [THUCNEWS[x] for x in load_text(data, "topic/zh_thucnews_class.txt.zst").split()]
    for row in load_rows(data, "topic/zh_thucnews_titles_dev.jsonl.zst"):
        text = row["text"].strip()
        yield listed("topic", "zh", "thucnews", text, classes[row["label"]], classes, full=0.6)
    for name in ("train", "dev"):
        for line in load_lines(data, f"topic/zh_csl_cls_ctg_{name}.tsv.zst"):
            _, title, label = line.split("\t")
            yield listed("topic", "zh", "csl-subject", title, label, CSL, full=0.6)
    for name in ("train", "val"):
        for row in load_rows(data, f"sentiment/en_tweeteval_emotion_{name}.jsonl.zst"):
            text = row["text"].replace("@user", "").strip()
            label = EMOTION[row["label"]]
            yield listed("classify", "en", "emotion", text, label, EMOTION, full=0.7)


def spam(data: Path) -> Iterator[Item]:
    """SMS. There is no Chinese set: some rows are asked, and answered, in Chinese."""
    for row in load_rows(data, "topic/en_sms_spam_train.jsonl.zst"):
        text = row["text"].strip()
        item = fixed("spam", "en", "sms-spam", text, row["label"])
        if chance(text, 16) < 0.15 and item.side == "train":
            answer = {"spam": "垃圾", "ham": "正常"}[row["label"]]
            yield Item(
                task="spam",
                lang="zh",
                source="sms-spam",
                side="train",
                messages=turns(ask("spam", "zh", text, text=text), answer),
            )
        yield item


def words(label: str) -> str:
    """A label's name as words: "Refund_not_showing_up" becomes "refund not showing up"."""
    return label.replace("_", " ").strip("? ").lower()


def intent(data: Path) -> Iterator[Item]:
    """Requests to assistants and to a bank: named freely, or chosen from a few labels."""
    clinc = load_json(data, "topic/en_clinc150_train_val.json.zst")
    pairs = [(text, words(label)) for part in sorted(clinc) for text, label in clinc[part]]
    pairs = [(text, "out of scope" if label == "oos" else label) for text, label in pairs]
    yield from _intents("en", "clinc150", pairs)
    table = csv.DictReader(io.StringIO(load_text(data, "topic/en_banking77_train.csv.zst")))
    bank = [(row["text"].strip(), words(row["category"])) for row in table]
    yield from _intents("en", "banking77", bank)
    smp = load_json(data, "topic/zh_smp2019_nlu.json.zst")
    yield from _intents(
        "zh", "smp2019", [(r["text"], SMP[r["domain"]]) for r in smp if r["domain"] in SMP]
    )


def _intents(lang: str, source: str, pairs: Iterable[tuple[str, str]]) -> Iterator[Item]:
    pairs = list(pairs)
    labels = sorted({label for _, label in pairs})
    for text, label in pairs:
        if chance(text, 17) < 0.25 and side(text) == "train":
            yield listed("classify", lang, source, text, label, labels, full=0.0)
        yield Item(
            task="intent",
            lang=lang,
            source=source,
            side=side(text),
            messages=turns(ask("intent", lang, text, text=text), label),
            fields={"text": text, "label": label, "labels": labels},
        )


def items(data: Path) -> Iterator[Item]:
    """All of them; a text that occurs twice counts once."""
    seen: set[tuple[str, str, str]] = set()
    for part in (sentiment, topic, spam, intent):
        for item in part(data):
            text = normal(item.fields.get("text", "")) or str(item.messages)
            key = (item.task, item.source + item.lang, text)
            if key not in seen:
                seen.add(key)
                yield item

"""Sentences in both languages, asked for in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from convert.chinese import Converter
from convert.common import Item, Side, ask, chance, chinese_share, load_rows, normal, side, turns

# file, source, most characters of the English side
SETS = (
    ("tatoeba_train", "tatoeba", 200),
    ("scratch", "software", 100),
    ("tldr", "software", 90),
    ("react", "software", 110),
    ("dart", "software", 110),
    ("python_docs", "software", 90),
)
_MARKUP = re.compile(r"[`{}<>|\\%*_$\[\]]|::|https?:|:\w+:|^[a-z0-9.]+$|^\W")
_FULL_WIDTH = {",": "，", "?": "？", "!": "！", ";": "；", ":": "："}


def tidy(zh: str) -> str:
    """Chinese with Chinese punctuation and no spaces beside it."""
    zh = re.sub(r"(?<=[\u4e00-\u9fff”])\s*([,?!;:])\s*", lambda m: _FULL_WIDTH[m[1]], zh)
    zh = re.sub(r"(?<=[\u4e00-\u9fff])\s*\.$", "。", zh)
    zh = re.sub(r"\s*([，。？！；：、])\s*", r"\1", zh)
    return re.sub(r"(?<=[\u4e00-\u9fff]) (?=[\u4e00-\u9fff])", "", zh).strip()


def parallel(en: str, zh: str, longest: int) -> bool:
    """Whether two texts look like translations of each other in plain language."""
    if not 2 <= len(en) <= longest or _MARKUP.search(en) or _MARKUP.search(zh):
        return False
    if chinese_share(zh) < 0.55 or chinese_share(en) > 0:
        return False
    return 0.12 <= len(zh) / len(en) <= 1.2 or len(zh) < 12 > len(en)


def items(data: Path) -> Iterator[Item]:
    """Both directions of every pair; a pair is held back with any other that shares a side."""
    simplify = Converter.load(data, "TS")
    for name, source, longest in SETS:
        pairs = []
        for row in load_rows(data, f"parallel/{name}.jsonl.zst"):
            en, zh = re.sub(r"\s+", " ", row["en"]).strip(), tidy(simplify(row["zh"]))
            if parallel(en, zh, longest):
                pairs.append((en, zh))
        held = {normal(t) for pair in pairs if side(pair[0]) == "validation" for t in pair}
        seen: set[tuple[str, str]] = set()
        for en, zh in pairs:
            at: Side = "validation" if side(en) == "validation" else "train"
            if at == "train" and (normal(en) in held or normal(zh) in held):
                continue
            if (normal(en), normal(zh)) not in seen:
                seen.add((normal(en), normal(zh)))
                yield _item(en, zh, "zh", source, at)
                yield _item(zh, en, "en", source, at)


def _item(text: str, translation: str, target: str, source: str, at: Side) -> Item:
    # Mostly asked in the language of the text, as people do.
    lang = "zh" if (target == "en") == (chance(text, 21) < 0.6) else "en"
    return Item(
        task="translate",
        lang=lang,
        source=f"{source}-{target}",
        side=at,
        messages=turns(ask("translate", lang, text, text=text, target=target), translation),
        fields={"src": text, "tgt": translation, "target": target},
    )

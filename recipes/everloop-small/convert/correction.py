"""Text with mistakes in, without them out; about a third of the rows are right already and come
back unchanged, so that the model learns to leave correct text alone.

Real mistakes: SIGHAN (learners' Chinese). Made ones: Chinese characters of the same sound or a
similar shape, English words as people mistype them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from convert.chinese import Converter
from convert.common import (
    Item,
    ask,
    chance,
    chinese_share,
    load_lines,
    load_rows,
    load_text,
    pick,
    side,
    turns,
)
from convert.translation import tidy
from everloop.data.noise.slips import NEIGHBOURS, dropped, repeated, replaced, swapped

UNCHANGED = 0.32
SENTENCES = 24_000  # clean sentences used in each language
Spoil = Callable[[str, str], str]


def correct(lang: str, source: str, wrong: str, right: str) -> Item:
    """One row; held back by the right text, so that all its misspellings stay together."""
    return Item(
        task="correct",
        lang=lang,
        source=source,
        side=side(right),
        messages=turns(ask("correct", lang, wrong, text=wrong), right),
        fields={"src": wrong, "tgt": right},
    )


def sighan(data: Path) -> Iterator[Item]:
    """SIGHAN 2013 to 2015; and, to balance them, a part of the corrected texts unchanged."""
    for year in (13, 14, 15):
        for row in load_rows(data, f"editing/zh_sighan{year}_train.jsonl.zst"):
            if chinese_share(row["tgt"]) < 0.6:
                continue
            yield correct("zh", "sighan", row["src"], row["tgt"])
            if row["src"] != row["tgt"] and chance(row["tgt"], 31) < 0.4:
                yield correct("zh", "sighan", row["tgt"], row["tgt"])


class ChineseMistakes:
    """Replaces characters by ones that are confused with them, or drops, repeats, swaps some."""

    def __init__(self, data: Path) -> None:
        common = set(load_text(data, "editing/pycorrector_common_char_set.txt.zst").split())
        self.sound: dict[str, str] = {}
        for line in load_lines(data, "editing/pycorrector_same_pinyin.txt.zst"):
            parts = line.rstrip("\r").split("\t")
            if not line.startswith("#") and parts[0] in common:
                # The same tone twice: it is confused more often than another tone.
                alike = 2 * parts[1] + (parts[2] if len(parts) > 2 else "")
                self.sound[parts[0]] = "".join(c for c in alike if c in common)
        self.shape: dict[str, str] = {}
        for line in load_lines(data, "editing/zh_confusion_SimilarShape_simplied.txt.zst"):
            char, _, alike = line.rstrip("\r").partition(",")
            if char in common:
                self.shape[char] = "".join(c for c in alike if c in common and c != char)
        # What people really confuse: counted in SIGHAN's training part.
        self.seen: dict[str, str] = {}
        for year in (13, 14, 15):
            for row in load_rows(data, f"editing/zh_sighan{year}_train.jsonl.zst"):
                if side(row["tgt"]) == "train" and len(row["src"]) == len(row["tgt"]):
                    for wrong, right in zip(row["src"], row["tgt"], strict=True):
                        if wrong != right and chinese_share(wrong + right) == 1:
                            self.seen[right] = self.seen.get(right, "") + wrong

    def __call__(self, text: str, salt: str) -> str:
        """The text with one to three mistakes, or as it is if none can be made."""
        for n in range(pick((1, 1, 1, 1, 2, 2, 3), salt + text, 32)):
            text = self._once(text, f"{salt}{n}{text}")
        return text

    def _once(self, text: str, by: str) -> str:
        how = chance(by, 33)
        places = [i for i, c in enumerate(text) if c in self.sound]
        known = [i for i in places if text[i] in self.seen]
        if how < 0.3 and known:
            i = pick(known, by, 34)
            return replaced(text, i, pick(self.seen[text[i]], by, 35))
        if how < 0.84:
            table = self.sound if how < 0.65 else self.shape
            places = [i for i in places if table.get(text[i])]
            if not places:
                return text
            i = pick(places, by, 34)
            return replaced(text, i, pick(table[text[i]], by, 35))
        if not places:
            return text
        i = pick(places, by, 34)
        if how < 0.89:
            return dropped(text, i)
        if how < 0.95:
            return repeated(text, i)
        return swapped(text, i) if text[i + 1 : i + 2] in self.sound else text


CONFUSED = {
    "their": "there", "there": "their", "they're": "their", "its": "it's", "it's": "its",
    "your": "you're", "you're": "your", "than": "then", "then": "than", "to": "too",
    "too": "to", "two": "to", "lose": "loose", "affect": "effect", "whether": "weather",
    "weather": "whether", "hear": "here", "here": "hear", "were": "where", "a": "an", "an": "a",
    "is": "are", "are": "is", "was": "were", "has": "have", "have": "has", "doesn't": "don't",
    "don't": "doesn't", "much": "many", "many": "much", "went": "goed", "said": "sayed",
}  # fmt: skip


class EnglishMistakes:
    """Misspells words: as people did, by a slip of the finger, or by a grammar confusion."""

    def __init__(self, data: Path) -> None:
        self.seen: dict[str, list[str]] = {}
        for line in load_lines(data, "editing/en_natural_typos.txt.zst"):
            right, *wrong = line.split()
            wrong = [w for w in wrong if w.isalpha() and w.lower() != right.lower()]
            if right.islower() and wrong:
                self.seen[right] = wrong
        for line in load_lines(data, "editing/en_codespell_dictionary.txt.zst"):
            wrong_word, _, right = line.partition("->")
            if "," not in right and right.isalpha() and wrong_word.isalpha():
                self.seen.setdefault(right, []).append(wrong_word)

    def __call__(self, text: str, salt: str) -> str:
        """The text with one to three mistakes, or as it is if none can be made."""
        for n in range(pick((1, 1, 1, 2, 2, 3), salt + text, 36)):
            text = self._once(text, f"{salt}{n}{text}")
        return text

    def _once(self, text: str, by: str) -> str:
        found = list(re.finditer(r"[A-Za-z][A-Za-z']*", text))
        confused = [m for m in found if m.group().lower() in CONFUSED]
        longer = [m for m in found if len(m.group()) >= 4 and m.group().isalpha()]
        how = chance(by, 37)
        if how < 0.05 and text[0].isupper() and len(found) > 2:
            return text[0].lower() + text[1:]
        if how < 0.3 and confused:
            match = pick(confused, by, 38)
            wrong = CONFUSED[match.group().lower()]
        elif longer:
            match = pick(longer, by, 38)
            wrong = self.misspelt(match.group(), by)
        else:
            return text
        if match.group()[0].isupper():
            wrong = wrong[0].upper() + wrong[1:]
        return text[: match.start()] + wrong + text[match.end() :]

    def misspelt(self, word: str, by: str) -> str:
        """Another spelling of `word` (lower case where it changes)."""
        word = word.lower()
        if chance(by, 39) < 0.55 and word in self.seen:
            return pick(self.seen[word], by, 40)
        i = pick(range(1, len(word) - 1), by, 41)
        how = chance(by, 42)
        if how < 0.3:
            return dropped(word, i)
        if how < 0.5:
            return repeated(word, i)
        if how < 0.75:
            return swapped(word, i)
        return replaced(word, i, pick(NEIGHBOURS.get(word[i], word[i]), by, 43))


def chinese_sentences(data: Path) -> Iterator[str]:
    """Everyday sentences of people who write well."""
    simplify = Converter.load(data, "TS")
    for row in load_rows(data, "parallel/tatoeba_train.jsonl.zst"):
        yield tidy(simplify(row["zh"]))
    for name in ("zh_crosswoz_val", "zh_kdconv_dev"):
        for row in load_rows(data, f"dialogue/{name}.jsonl.zst"):
            for turn in row["turns"]:
                yield tidy(turn if isinstance(turn, str) else turn[1])
    for row in load_rows(data, "pretrain/zh_wiki_simp.jsonl.zst"):
        if chance(row["title"], 44) < 0.12:
            yield from (f"{s}。" for s in row["text"].split("\n")[0].split("。")[1:3])


def english_sentences(data: Path) -> Iterator[str]:
    """Everyday sentences, and some of the encyclopaedia."""
    for row in load_rows(data, "parallel/tatoeba_train.jsonl.zst"):
        yield row["en"].strip()
    for row in load_rows(data, "dialogue/en_sgd_dev.jsonl.zst"):
        yield from (text.strip() for _, text in row["turns"] if text.strip()[-1:] in (".", "?"))
    for row in load_rows(data, "pretrain/en_wiki_core.jsonl.zst"):
        yield from re.split(r"(?<=[.!?])\s+", row["text"][:600])[1:3]


def made(data: Path, lang: str) -> Iterator[Item]:
    """Rows made from clean sentences."""
    sentences = chinese_sentences(data) if lang == "zh" else english_sentences(data)
    spoil: Spoil = ChineseMistakes(data) if lang == "zh" else EnglishMistakes(data)
    low, high = (6, 60) if lang == "zh" else (15, 140)
    clean = {s for s in sentences if low <= len(s) <= high and plain(s, lang)}
    for text in sorted(clean, key=lambda s: (chance(s, 45), s))[:SENTENCES]:
        wrong = text if chance(text, 46) < UNCHANGED else spoil(text, "")
        yield correct(lang, f"made-{lang}", wrong, text)


def plain(text: str, lang: str) -> bool:
    """Whether a sentence is complete and in one language."""
    if lang == "zh":
        return chinese_share(text) > 0.75 and text[-1] in "。！？" and "（）" not in text
    return bool(re.fullmatch(r"[A-Z][A-Za-z0-9 ,;:'\"$%()-]+[.!?]", text)) and "()" not in text


def items(data: Path) -> Iterator[Item]:
    """Real and made mistakes."""
    yield from sighan(data)
    yield from made(data, "zh")
    yield from made(data, "en")

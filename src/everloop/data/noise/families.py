"""The families of noise: which places of a text each can touch, and what then stands there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from everloop.data.noise.characters import HOMOGLYPHS, WIDTHS
from everloop.data.noise.chinese import SCRIPT, SHAPE, SOUND
from everloop.data.noise.slips import NEIGHBOURS

_RUN = re.compile(r"[!-~]{4,}")
_ADDRESS = re.compile(r"://|@|www\.")
_WORD = re.compile(r"[A-Za-z]{3,}")
_HAN = re.compile(r"[\u3400-\u9fff]")
_LETTER = re.compile(r"[A-Za-z\u3400-\u9fff]")
_GAP = re.compile(r"(?<=\S) (?=\S)|[A-Za-z](?=[A-Za-z])|[\u3400-\u9fff](?=[\u3400-\u9fff])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """`places` are the indices that may be touched; `change(text, i, pick)` is what comes in the
    place of the `span` characters from `i`, where `pick` is any number of 64 random bits."""

    name: str
    langs: tuple[str, ...]
    """Languages that it is measured in; it touches what it can in any text."""
    places: Callable[[str], list[int]]
    change: Callable[[str, int, int], str]
    span: int = 1


def _in(table: Mapping[str, str]) -> Callable[[str], list[int]]:
    return lambda text: [i for i, c in enumerate(text) if c in table]


def _at(pattern: re.Pattern[str]) -> Callable[[str], list[int]]:
    return lambda text: [m.start() for m in pattern.finditer(text)]


def _in_words(text: str) -> list[int]:
    """Letters of words of three letters and more: what is left can still be read."""
    return [i for m in _WORD.finditer(text) for i in range(m.start(), m.end())]


def _pairs(places: list[int], text: str) -> list[int]:
    there = set(places)
    return [i for i in places if i + 1 in there and text[i] != text[i + 1]]


def _one(table: Mapping[str, str]) -> Callable[[str, int, int], str]:
    return lambda text, i, pick: table[text[i]][pick % len(table[text[i]])]


def _key(text: str, i: int, pick: int) -> str:
    keys = NEIGHBOURS[text[i].lower()]
    key = keys[pick % len(keys)]
    return key.upper() if text[i].isupper() else key


def _swap(text: str, i: int, _pick: int) -> str:
    return text[i + 1] + text[i]


def _space(text: str, i: int, _pick: int) -> str:
    return "" if text[i] == " " else text[i] + " "


_BOTH, _EN, _ZH = ("en", "zh"), ("en",), ("zh",)
_ALL = (
    Family(name="keyboard", langs=_EN, places=_in_words, change=_key),
    Family(
        name="transpose", langs=_EN, places=lambda t: _pairs(_in_words(t), t), change=_swap, span=2
    ),
    Family(name="drop", langs=_EN, places=_in_words, change=lambda t, i, p: ""),
    Family(name="repeat", langs=_BOTH, places=_at(_LETTER), change=lambda t, i, p: t[i] * 2),
    Family(
        name="case",
        langs=_EN,
        places=_at(re.compile("[A-Za-z]")),
        change=lambda t, i, p: t[i].swapcase(),
    ),
    Family(name="spacing", langs=_BOTH, places=_at(_GAP), change=_space),
    Family(name="homoglyph", langs=_BOTH, places=_in(HOMOGLYPHS), change=_one(HOMOGLYPHS)),
    Family(name="width", langs=_BOTH, places=_in(WIDTHS), change=_one(WIDTHS)),
    Family(name="zh-shape", langs=_ZH, places=_in(SHAPE), change=_one(SHAPE)),
    Family(name="zh-sound", langs=_ZH, places=_in(SOUND), change=_one(SOUND)),
    Family(name="zh-script", langs=_ZH, places=_in(SCRIPT), change=_one(SCRIPT)),
    Family(name="zh-drop", langs=_ZH, places=_at(_HAN), change=lambda t, i, p: ""),
    Family(
        name="zh-swap",
        langs=_ZH,
        places=lambda t: _pairs(_at(_HAN)(t), t),
        change=_swap,
        span=2,
    ),
)

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType({f.name: f for f in _ALL})

HELD_OUT: Final = ("homoglyph", "zh-shape")
"""Never in training, in either language: they are for measuring."""

TRAINING: Final = tuple(name for name in FAMILIES if name not in HELD_OUT)


def families_for(lang: str) -> tuple[str, ...]:
    """The families that a text in `lang` ("en" or "zh") is measured with."""
    return tuple(f.name for f in _ALL if lang in f.langs)


def places(family: Family, text: str) -> list[int]:
    """What may be touched: never a part of an address, where a mistake changes what is meant, nor
    a digit but for its width."""
    return family.places(_RUN.sub(_hidden, text))


def _hidden(run: re.Match[str]) -> str:
    return "\0" * len(run.group()) if _ADDRESS.search(run.group()) else run.group()

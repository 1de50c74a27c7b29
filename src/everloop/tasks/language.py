"""Chinese or English, by the script it is written in."""

from __future__ import annotations

import re

from everloop.data.instructions import Lang
from everloop.errors import InvalidRequest

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_WORD = re.compile(r"[A-Za-zÀ-ÖØ-öø-ÿ]+")


def language_of(text: str) -> Lang:
    """zh if there are at least as many Chinese characters as Latin words (so that a Chinese
    sentence with a few English names stays Chinese), else en; en if there are neither."""
    han = len(_HAN.findall(text))
    return "zh" if han and han >= len(_WORD.findall(text)) else "en"


def checked(lang: str | None, text: str, param: str = "lang") -> Lang:
    """`lang`, or the language of `text` where it is None. Raises InvalidRequest for another."""
    if lang is None:
        return language_of(text)
    if lang == "zh":
        return "zh"
    if lang == "en":
        return "en"
    raise InvalidRequest(f"{param} is {lang!r}. Use zh or en.", param=param)

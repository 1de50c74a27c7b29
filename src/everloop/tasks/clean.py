"""Cleaning of a text before a call, only where the caller asks for it, and told in the reply.

Training text is cleaned by `data.clean`; here nothing a reader would miss is dropped, and white
space at both ends, which raw completion continues from, stays.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from everloop.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """`steps` are those that changed something; `language` is an ISO 639-1 code or "und"."""

    text: str
    language: str
    steps: tuple[str, ...]


def cleaned(text: str, steps: Sequence[str] | None = None, *, param: str = "text") -> Cleaned:
    """`text` after the given STEPS (all by default), in their fixed order.

    Raises InvalidRequest for an unknown step, and where nothing is left of a text that had
    something.
    """
    chosen = STEPS if steps is None else steps
    if unknown := [name for name in chosen if name not in _STEP]:
        raise InvalidRequest(
            f"clean: no step named {unknown[0]!r:.40}; there are {', '.join(STEPS)}.", param="clean"
        )
    core = text.strip()
    before, _, after = text.partition(core) if core else (text, "", "")
    changed = []
    for name in STEPS:
        if name in chosen:
            result = _STEP[name](core).strip()
            if result != core:
                changed.append(name)
                core = result
    if changed and not core:
        raise InvalidRequest(
            f"Nothing is left of '{param}' after cleaning ({', '.join(changed)}). Send some text, "
            "or leave a step out of 'clean'.",
            param=param,
        )
    from everloop.data.language import language  # NumPy again

    return Cleaned(text=before + core + after, language=language(core), steps=tuple(changed))


_TAGS = (
    "a abbr article aside b blockquote body br button center code dd del details div dl dt em "
    "figcaption figure font footer form h1 h2 h3 h4 h5 h6 head header hr html i iframe img input "
    "ins label li link main mark meta nav noscript object ol option p picture pre s section select "
    "small source span strike strong sub summary sup svg table tbody td tfoot th thead title tr tt "
    "u ul video"
).replace(" ", "|")
_HIDDEN = tuple(
    (re.compile(start, re.IGNORECASE), re.compile(end, re.IGNORECASE))
    for start, end in (
        (r"<script\b[^<>]*>", r"</script\s*>"),
        (r"<style\b[^<>]*>", r"</style\s*>"),
        ("<!--", "-->"),
        ("<!doctype", ">"),
    )
)
_BREAK = re.compile(r"<(?:br|/p|/div|/li|/tr|/h[1-6])\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(rf"</?(?:{_TAGS})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,30});", re.IGNORECASE)


def _markup(text: str) -> str:
    """HTML's tags and what they hide; a line ends where a paragraph did. Only names of HTML are
    tags: `a < b`, `<name>` and code stay."""
    if "<" in text:
        for start, end in _HIDDEN:
            text = _without(text, start, end)
        text = _TAG.sub("", _BREAK.sub("\n", text))
    return _ENTITY.sub(lambda m: html.unescape(m.group()), text) if "&" in text else text


def _without(text: str, start: re.Pattern[str], end: re.Pattern[str]) -> str:
    """What lies between them is left out. One expression for both would try each start to the end
    of the text where no end is there."""
    parts, at = [], 0
    while begins := start.search(text, at):
        ends = end.search(text, begins.end())
        if ends is None:
            break
        parts.append(text[at : begins.start()])
        at = ends.end()
    return "".join(parts) + text[at:]


# Letters and digits in full width, blanks of other widths, half-width Chinese punctuation, and
# the radicals that look like characters. Full-width punctuation is right in Chinese and stays.
_WIDTHS: dict[int, int | str] = {
    **{code: code - 0xFEE0 for code in range(0xFF10, 0xFF5B) if chr(code).isalnum()},
    **{ord(c): " " for c in "\u3000\u00a0\u2002\u2003\u2009\u202f"},
    **dict(zip(map(ord, "｡､｢｣"), "。、「」", strict=True)),
    **{code: unicodedata.normalize("NFKC", chr(code)) for code in range(0x2F00, 0x2FD6)},
}

_BLANKS = re.compile(r"[ \t]{2,}")
_AROUND = re.compile(r" *\n *")
_LINES = re.compile(r"\n{3,}")
_BETWEEN = re.compile(r"(?<=[\u3400-\u9fff，。！？；：、]) (?=[\u3400-\u9fff])")
_REPEATED = re.compile(r"([A-Za-z\u3400-\u9fff!?！？。，~～])\1{3,}")


def _as_data(text: str, step: str) -> str:
    """One step of the cleaning that training data get."""
    from everloop.data.clean import clean  # NumPy, which the server does without until now

    return clean(text, (step,))


def _space(text: str) -> str:
    text = _BETWEEN.sub("", _BLANKS.sub(" ", text))
    return _LINES.sub("\n\n", _AROUND.sub("\n", text))


_STEP: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "encoding": lambda text: _as_data(text, "mojibake"),
        "control": lambda text: _as_data(text, "control"),
        "markup": _markup,
        "width": lambda text: text.translate(_WIDTHS),
        "space": _space,
        "repeats": lambda text: _REPEATED.sub(r"\1\1\1", text),
    }
)

STEPS: Final = tuple(_STEP)
"""encoding: text decoded wrongly; control: invisible and control characters; markup: HTML; width:
full-width letters and digits; space: runs of blanks and empty lines, blanks between Chinese
characters; repeats: more than three of one character."""

"""Cleaning of training text: what no reader would miss is removed, what was meant is kept.

Four steps, each can be left out: `control` (invisible and control characters, lone surrogates,
line ends, surplus blank space), `mojibake` (text decoded with the wrong encoding, repaired with
ftfy where a cheap test says so), `boilerplate` (lines of web pages that aren't text) and `noise`
(lines without words, base64). Chinese punctuation and full-width letters stay as they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache

import numpy as np
import numpy.typing as npt

from everloop.errors import InvalidRequest

STEPS = ("control", "mojibake", "boilerplate", "noise")

# C0 and C1 controls but \t \n \r and NEL, soft hyphen, zero-width space and marks that only
# reorder (bidi), BOM, interlinear marks, noncharacters. Zero-width joiners stay: emoji and
# Indic scripts need them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064"
    "\u2066-\u206f\ufeff\ufff9-\ufffb\ufdd0-\ufdef\ufffe\uffff]+"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028]")
_BLANK = " \t\u00a0\u3000"
_BLANK_LINES = re.compile("\n{3,}")

# UTF-8 read as Latin-1 or Windows-1252 (Ã©, â€™, ä¸­) or as GBK (鈥, 锛): pairs that hardly occur in
# real text. ftfy decides, line by line; a line it can't explain stays.
_LEADS = "ÂÃÐÑâãäåæçèéï"
_TAILS = "\x80-\xbfŒœŠšŸŽžƒˆ˜–—‘’‚“”„†‡•…‰‹›€™"
_MOJIBAKE = re.compile(f"[ÂÃÐÑ][{_TAILS}]|[âãäåæçèéï][{_TAILS}][{_TAILS}]")
_TAIL = re.compile(f"[{_TAILS}]")
# What is left of UTF-8 that went through GBK with replacement: beyond repair.
_LOST_SIGNS = ("锟斤拷", "烫烫烫", "屯屯屯", "\ufffd" * 3)

_BOILERPLATE = re.compile(
    r"^[ \t　]*(?:"
    r"(?:all rights reserved|copyright ?(?:©|\(c\))|©).{0,80}"
    r"|(?:click here|read more|share (?:this|on)|subscribe (?:to|now)|sign (?:in|up)|log ?in|"
    r"accept (?:all )?cookies|this (?:site|website) uses cookies|skip to (?:main )?content|"
    r"back to top|leave a (?:comment|reply)|follow us on|advertisement)\b.{0,40}"
    r"|(?:点击查看|点击进入|点击下载|扫码关注|扫描二维码|关注我们|关注公众号|返回顶部|返回首页|上一篇|下一篇|"
    r"责任编辑|版权所有|未经授权|转载请注明|分享到|登录后|注册登录|免责声明|网站地图|联系我们|加入收藏).{0,30}"
    r"|(?:京|沪|粤|浙|苏)?ICP[备证].{0,30}"
    r")[ \t　]*\n?",
    re.IGNORECASE | re.MULTILINE,
)
# Cheap test first: most texts have none of these words and skip the slow pattern.
_BOILERPLATE_HINT = re.compile(
    r"(?m)^[ \t　]*(?:[aA]ll [rR]ights|ALL RIGHTS|[cC]opyright|©|[cC]lick here|[rR]ead more"
    r"|[sS]hare |[sS]ubscribe|[sS]ign (?:in|up)|[lL]og ?in|[aA]ccept|[tT]his (?:site|website)"
    r"|[sS]kip to|[bB]ack to|[lL]eave a|[fF]ollow us|[aA]dvert|ADVERT|ICP"
    r"|[点扫关返上下责版未转分登注免网联加京沪粤浙苏])"
)

_WORDLESS = re.compile(r"^[^\w\n]{20,}\n?", re.MULTILINE)
_BASE64 = re.compile(r"(?:data:[\w/+.-]{1,60};base64,)?[A-Za-z0-9+/]{200,}={0,2}")


def steps_of(value: bool | Iterable[str]) -> tuple[str, ...]:
    """The setting `clean` (true, false or a list of names) as steps in their fixed order."""
    if isinstance(value, bool):
        return STEPS if value else ()
    chosen = set(value)
    if unknown := chosen - set(STEPS):
        raise InvalidRequest(
            f"clean: no step named {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}.",
            param="clean",
        )
    return tuple(step for step in STEPS if step in chosen)


def clean(text: str, steps: tuple[str, ...] = STEPS, counts: Counter[str] | None = None) -> str:
    """The text cleaned by `steps`; `counts` gets, by step, one for each text that it changed.

    Lone surrogates become U+FFFD whatever the steps: no encoder can write them.
    """
    cleaned = text if text.isascii() else _mend_surrogates(text)
    for step in steps:
        before = cleaned
        cleaned = _STEP[step](cleaned)
        # Blank space is trimmed everywhere; counting that would say "all texts were dirty".
        if counts is not None and cleaned != before and (step != "control" or _has_odd(before)):
            counts[step] += 1
    return cleaned


# The expressions above cost 20 to 50 ns a character, most texts need none of them: each step
# first looks for a sign of work with translate, `in` and a table, which cost about 1 ns.
_C0 = bytes(set(range(32)) - set(b"\t\n")) + b"\x7f"
_WORDLESS_MAP = bytes(
    ord("\n") if code == 10 else ord("a") if code > 127 or chr(code).isalnum() else ord("b")
    for code in range(256)
)
_WORDLESS_SIGNS = tuple("—─━═＝…＊＿．·・■□◆★\u3000")
_BASE64_MAP = bytes(
    ord("a") if code < 128 and (chr(code).isalnum() or chr(code) in "+/") else ord(" ")
    for code in range(256)
)
_TRAILING_SIGNS = (" \n", "\t\n", "\u00a0\n", "\u3000\n")


def _mend_surrogates(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text)
    return text


_IS_LEAD, _IS_TAIL, _IS_ODD = 1, 2, 3  # the C1 controls are both odd and tails


@cache
def _class_table() -> npt.NDArray[np.uint8]:
    table = np.zeros(1 << 16, dtype=np.uint8)
    for code in range(1 << 16):
        character = chr(code)
        if character in _LEADS:
            table[code] = _IS_LEAD
        elif character in "\r\x0b\x0c\x85\u2028\u2029" or _INVISIBLE.match(character):
            table[code] = _IS_ODD
        elif _TAIL.match(character):
            table[code] = _IS_TAIL
    return table


def _classes(text: str) -> npt.NDArray[np.uint8]:
    """By UTF-16 unit: whether _control must look at it, or what part of mojibake it could be."""
    units = np.frombuffer(text.encode("utf-16-le"), dtype="<u2")
    classes: npt.NDArray[np.uint8] = _class_table()[units]
    return classes


def _has_odd(text: str) -> bool:
    if text.isascii():
        raw = text.encode()
        return len(raw.translate(None, _C0)) != len(raw)
    return bool((_classes(text) == _IS_ODD).any())


def _control(text: str) -> str:
    if _has_odd(text):
        text = _LINE_END.sub("\n", text).replace("\u2029", "\n\n")
        text = _INVISIBLE.sub("", text)
    if "\n" in text and any(sign in text for sign in _TRAILING_SIGNS):
        text = "\n".join(line.rstrip(_BLANK) for line in text.split("\n"))
    if "\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n", text)
    return text.strip("\n").rstrip(_BLANK)


def _has_mojibake(text: str) -> bool:
    if not any(lead in text for lead in _LEADS):
        return False
    classes = _classes(text)
    near = (classes[:-1] == _IS_LEAD) & (classes[1:] >= _IS_TAIL)
    return bool(near.any()) and _MOJIBAKE.search(text) is not None


def _mojibake(text: str) -> str:
    if text.isascii():
        return text
    suspect = _has_mojibake(text)
    lost = any(sign in text for sign in _LOST_SIGNS)
    if suspect:
        import ftfy  # 50 ms to import, seldom needed

        text = "\n".join(
            ftfy.fix_encoding(line) if len(line) < 100_000 and _MOJIBAKE.search(line) else line
            for line in text.split("\n")
        )
    if lost:
        text = "\n".join(
            line for line in text.split("\n") if not any(sign in line for sign in _LOST_SIGNS)
        )
    return text


def _boilerplate(text: str) -> str:
    if _BOILERPLATE_HINT.search(text) is None:
        return text
    return _BOILERPLATE.sub("", text).strip("\n")


def _noise(text: str) -> str:
    raw = text.encode()
    if b"b" * 20 in raw.translate(_WORDLESS_MAP) or (
        len(raw) != len(text) and any(sign * 20 in text for sign in _WORDLESS_SIGNS)
    ):
        text = _WORDLESS.sub("", text)
    if b"a" * 200 in raw.translate(_BASE64_MAP):
        text = _BASE64.sub("", text)
    return text.strip("\n")


_STEP = {
    "control": _control,
    "mojibake": _mojibake,
    "boilerplate": _boilerplate,
    "noise": _noise,
}

"""Which language a text is in: by script where the script tells, by a small model otherwise.

"zh" stands for Chinese in either script: the model, asked about traditional Chinese, says "yue".
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import numpy.typing as npt

_SAMPLE = 2000
_ENGLISH = re.compile(
    r"\b(?:the|of|and|to|in|is|that|it|for|was|on|with|as|are|this|you|be|have|not|but|at|by|i)\b",
    re.IGNORECASE,
)
UNKNOWN = "und"


def language(text: str) -> str:
    """ISO 639-1 code of the text's main language, "und" where it has no words."""
    sample = text if len(text) <= _SAMPLE else text[: _SAMPLE // 2] + text[-_SAMPLE // 2 :]
    units = np.frombuffer(sample.encode("utf-16-le", "surrogatepass"), "<u2")
    counts: list[int] = np.bincount(_scripts()[units], minlength=5).tolist()
    _, latin, han, kana, hangul = counts
    if not han + kana + hangul:
        words = sample.count(" ") + 1
        # A sixth of English words are among these; no other language reaches a tenth.
        if latin and len(_ENGLISH.findall(sample)) * 8 >= words and words >= 4:
            return "en"
        return _model(sample) if any(map(str.isalpha, sample)) else UNKNOWN
    # A character of these scripts says about what four Latin letters do.
    if (han + kana + hangul) * 4 >= latin:
        # Japanese prose is half kana; Chinese texts about Japan quote a few.
        return "ja" if kana * 2 > han else "ko" if hangul > han else "zh"
    return "en" if len(_ENGLISH.findall(sample)) * 10 >= sample.count(" ") else _model(sample)


@cache
def _scripts() -> npt.NDArray[np.uint8]:
    """By UTF-16 unit: 1 Latin letters, 2 Chinese characters, 3 kana, 4 Hangul, 0 anything else."""
    table = np.zeros(1 << 16, np.uint8)
    for script, first, last in (
        (1, "A", "Z"),
        (1, "a", "z"),
        (1, "\u00c0", "\u024f"),
        (2, "\u3400", "\u9fff"),
        (2, "\uf900", "\ufaff"),
        (3, "\u3041", "\u30ff"),
        (4, "\u1100", "\u11ff"),
        (4, "\uac00", "\ud7af"),
    ):
        table[ord(first) : ord(last) + 1] = script
    # Chinese characters beyond the basic plane: the first halves of their pairs.
    table[0xD840:0xD8C0] = 2
    return table


def _model(text: str) -> str:
    import py3langid  # 0.2 s and 130 MB, seldom needed

    code: str = py3langid.classify(text)[0]
    return "zh" if code in ("zh", "yue", "wuu") else code

"""Which language a text is in: by script where the script tells, by a small model otherwise.

"zh" stands for Chinese in either script: the model, asked about traditional Chinese, says "yue".
"""

from __future__ import annotations

import re

_SAMPLE = 2000
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_KANA = re.compile("[\u3041-\u30ff]")
_HANGUL = re.compile("[\u1100-\u11ff\uac00-\ud7af]")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")
_ENGLISH = re.compile(
    r"\b(?:the|of|and|to|in|is|that|it|for|was|on|with|as|are|this|you|be|have|not|but|at|by|i)\b",
    re.IGNORECASE,
)
UNKNOWN = "und"


def language(text: str) -> str:
    """ISO 639-1 code of the text's main language, "und" where it has no words."""
    sample = text if len(text) <= _SAMPLE else text[: _SAMPLE // 2] + text[-_SAMPLE // 2 :]
    if sample.isascii():
        han = kana = hangul = 0
    else:
        han, kana, hangul = (len(p.findall(sample)) for p in (_HAN, _KANA, _HANGUL))
    latin = len(_LATIN.findall(sample))
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


def _model(text: str) -> str:
    import py3langid  # 0.2 s and 130 MB, seldom needed

    code: str = py3langid.classify(text)[0]
    return "zh" if code in ("zh", "yue", "wuu") else code

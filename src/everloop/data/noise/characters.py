"""Other characters that look the same, or are the same in another width."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

_LATIN = "aeopcxyisjhABEHKMOPCTXIJSYNZ"
_ALIKE = "аеорсхуіѕјһАВЕНКМОРСТХІЈЅҮΝΖ"

HOMOGLYPHS: Mapping[str, str] = {
    # Letters of the Cyrillic and Greek scripts, and the radicals that Unicode has beside the
    # characters they are: ⼈ is not 人.
    **dict(zip(_LATIN, _ALIKE, strict=True)),
    **{unicodedata.normalize("NFKC", chr(c)): chr(c) for c in range(0x2F00, 0x2FD6)},
}
"""A character of another script or block with the same shape."""

_FULL = {chr(c): chr(c + 0xFEE0) for c in range(0x21, 0x7F)} | {" ": "\u3000"}
_HALF = {"。": "\uff61", "、": "\uff64", "「": "\uff62", "」": "\uff63"}

WIDTHS: Mapping[str, str] = _FULL | {full: half for half, full in _FULL.items()} | _HALF
"""The full-width form of a half-width character, and the half-width one of a full-width."""

"""Lines of a text file and the encoding they are in: a byte-order mark decides, else strict UTF-8,
else GB18030, else the file is refused. Nothing is ever decoded with errors ignored.

A line ends with "\\n" only: U+2028, U+0085 and their like are part of the text.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from pathlib import Path

from everloop.data.files import chunks
from everloop.errors import DataError

Note = Callable[[str], None]
MAX_LINE_BYTES = 256 << 20
# Real GB18030 text is nearly all GB2312 characters (traditional text about half); Big5, Shift-JIS
# or Latin-1 bytes read as GB18030 give rare characters instead.
_MIN_COMMON_SHARE = 0.4

_MARKS = (  # longest first: the UTF-32 mark begins with the UTF-16 one
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_lines(path: Path, *, on_note: Note | None = None) -> Iterator[tuple[int, bytes, str]]:
    """(line number from 1, bytes without the newline, encoding "utf-8" or "gb18030").

    UTF-16 and UTF-32 files (known by their mark) arrive as UTF-8. Any encoding but plain UTF-8 is
    reported once through `on_note`. Bytes are not yet checked: `decode` does that line by line.
    """
    encoding = ""
    number = 0
    parts: list[bytes] = []
    held = 0
    for chunk in _as_utf8(path, on_note):
        if b"\n" not in chunk:
            parts.append(chunk)
            held += len(chunk)
            if held > MAX_LINE_BYTES:
                raise DataError(
                    f"the line is longer than {MAX_LINE_BYTES >> 20} MiB.",
                    path=str(path),
                    line=number + 1,
                    repair="Put newlines between rows.",
                )
            continue
        parts.append(chunk)
        *lines, tail = b"".join(parts).split(b"\n")
        parts, held = [tail], len(tail)
        if not encoding:
            encoding = _decide(lines, path, number, on_note)
        known = encoding or "utf-8"
        for line in lines:
            number += 1
            yield number, line, known
    tail = b"".join(parts)
    if tail:
        encoding = encoding or _decide([tail], path, number, on_note) or "utf-8"
        yield number + 1, tail, encoding


def decode(line: bytes, encoding: str, path: Path, number: int) -> str:
    """The line as text; a line in another encoding than its file raises DataError."""
    try:
        return line.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not "
            f"{_NAMES[encoding]}, which the rest of the file is in.",
            path=str(path),
            line=number,
            repair=f"Save the whole file as UTF-8, for example: iconv -f gb18030 -t utf-8 "
            f"{path.name} (mixed files: convert each part on its own).",
        ) from None


_NAMES = {"utf-8": "UTF-8", "gb18030": "GB18030"}


def _as_utf8(path: Path, on_note: Note | None) -> Iterator[bytes]:
    stream = chunks(path)
    first = next(stream, b"")
    encoding = ""
    for mark, name in _MARKS:
        if first.startswith(mark):
            first, encoding = first[len(mark) :], name
            break
    if encoding in ("", "utf-8"):
        yield first
        yield from stream
        return
    if on_note:
        on_note(f"{path.name}: read as {encoding.upper()} (byte-order mark).")
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    try:
        yield decoder.decode(first).encode()
        for chunk in stream:
            yield decoder.decode(chunk).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"its byte-order mark says {encoding.upper()}, but it isn't: {error.reason}.",
            path=str(path),
            repair="Save it as UTF-8.",
        ) from None


def _decide(lines: list[bytes], path: Path, before: int, on_note: Note | None) -> str:
    """ "utf-8", "gb18030", or "" while only ASCII was seen. `before` lines came earlier."""
    telling = [(before + i, line) for i, line in enumerate(lines, 1) if not line.isascii()]
    if not telling:
        return ""
    not_utf8 = [(number, line) for number, line in telling if not _is(line, "utf-8")]
    # A short GB18030 line can be valid UTF-8 by chance and a UTF-8 file can have a damaged line;
    # the majority tells which, and `decode` then refuses the others by name.
    if 2 * len(not_utf8) <= len(telling):
        return "utf-8"
    number, sample = not_utf8[0]
    if not all(_is(line, "gb18030") for _, line in not_utf8[:1000]) or not _plausible(
        b"\n".join(line for _, line in not_utf8[:1000])
    ):
        raise DataError(
            f"is neither UTF-8 nor GB18030 (bytes {sample[:12].hex(' ')} …).",
            path=str(path),
            line=number,
            repair="Save it as UTF-8, for example: iconv -f big5 -t utf-8 (or -f latin1, "
            "-f shift-jis, as it was written).",
        )
    if on_note:
        on_note(f"{path.name}: read as GB18030 (it is not UTF-8); first line: {_shown(lines[0])}")
    return "gb18030"


def _is(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _plausible(sample: bytes) -> bool:
    text = [c for c in sample.decode("gb18030") if c > "\x7f"]
    common = "".join(text).encode("gb2312", "ignore").decode("gb2312")
    return len(common) >= _MIN_COMMON_SHARE * len(text)


def _shown(line: bytes) -> str:
    return line.decode("gb18030", "replace")[:60]

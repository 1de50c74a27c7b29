"""Traditional characters to simplified ones, with OpenCC's tables (longest phrase first)."""

from __future__ import annotations

from pathlib import Path

from convert.common import load_lines


class Converter:
    """`Converter.load(data, "TS")` simplifies, `"ST"` makes traditional."""

    def __init__(self, table: dict[str, str]) -> None:
        self._table = table
        self._longest = max(map(len, table), default=1)
        self._first = {phrase[0] for phrase in table if len(phrase) > 1}

    @classmethod
    def load(cls, data: Path, direction: str) -> Converter:
        """Reads opencc_{direction}Characters and Phrases."""
        table: dict[str, str] = {}
        for part in ("Characters", "Phrases"):
            for line in load_lines(data, f"editing/opencc_{direction}{part}.txt.zst"):
                if not line.startswith("#") and "\t" in line:
                    key, values = line.rstrip("\r").split("\t")[:2]
                    table[key] = values.split(" ")[0]
        return cls(table)

    def __call__(self, text: str) -> str:
        table, out, i = self._table, [], 0
        while i < len(text):
            length = 1
            if text[i] in self._first:
                length = min(self._longest, len(text) - i)
                while length > 1 and text[i : i + length] not in table:
                    length -= 1
            piece = text[i : i + length]
            out.append(table.get(piece, piece))
            i += length
        return "".join(out)

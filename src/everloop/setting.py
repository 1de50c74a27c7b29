"""One setting: how its value is read, checked and explained."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from everloop import units
from everloop.errors import InvalidRequest

NUMBERS: Mapping[str, Callable[[str | float], float]] = {
    "int": units.whole,
    "bytes": units.size,
    "seconds": units.seconds,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One row of the table: how a setting is read, checked and explained."""

    name: str
    default: Any
    kind: str  # text, secret, int, bytes, seconds, path, url, choice
    group: str
    help: str
    env: tuple[str, ...]  # the first that is set and not empty wins
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def show(self, value: Any) -> str:
        """A value in words; secrets stay hidden."""
        if value is None:
            return "not set"
        if self.kind == "secret":
            return "set (hidden)"
        if self.kind == "bytes":
            return units.show_size(value)
        return f"{value:g}s" if self.kind == "seconds" else str(value)

    def parse(self, raw: object, origin: str, folder: Path) -> Any:
        """The value that `raw` stands for; `folder` is what a relative path starts from."""
        if self.kind == "path":
            if not isinstance(raw, (str, Path)) or not str(raw).strip():
                raise self._bad(raw, origin, "give a folder")
            if "\0" in str(raw):
                raise self._bad(raw, origin, "give a folder without a null character")
            try:
                path = Path(raw).expanduser()
            except RuntimeError:  # ~name of nobody here
                raise self._bad(raw, origin, "name a user of this machine after ~") from None
            # Relative to the file that names it, else to the working directory.
            return Path(os.path.normpath(folder / path))
        if self.kind in NUMBERS:
            if isinstance(raw, bool) or not isinstance(raw, (str, int, float)):
                raise self._bad(raw, origin, self._repair())
            try:
                return NUMBERS[self.kind](raw)
            except (ValueError, OverflowError):
                raise self._bad(raw, origin, self._repair()) from None
        if not isinstance(raw, str):
            raise self._bad(raw, origin, "give a text in quotes")
        if "\0" in raw:
            raise self._bad(raw, origin, "give a text without a null character")
        return raw.rstrip("/") if self.kind == "url" else raw

    def check(self, value: Any, origin: str) -> None:
        """Raises InvalidRequest for a value that the setting can't have."""
        if value is None:
            return
        low, high = self.minimum, self.maximum
        if (low is not None and value < low) or (high is not None and value > high):
            raise self._bad(value, origin, self._repair())
        if self.choices and str(value) not in self.choices:
            raise self._bad(value, origin, "use one of " + ", ".join(self.choices))
        if self.kind == "text" and not str(value).strip():
            raise self._bad(value, origin, "give a text that isn't blank")
        if self.kind == "url":
            try:
                parts = urlsplit(value)
            except ValueError:  # such as http://[
                parts = urlsplit("")
            if parts.scheme not in ("http", "https") or not parts.netloc:
                raise self._bad(value, origin, "give a URL such as http://127.0.0.1:8000/v1")

    def _repair(self) -> str:
        unit = {
            "int": "a whole number",
            "bytes": "a size such as 10MiB",
            "seconds": "a time such as 20s",
        }[self.kind]
        low, high = self.minimum, self.maximum
        if low is not None and high is not None:
            return f"give {unit} from {low:g} to {high:g}"
        return f"give {unit}, at least {low:g}" if low is not None else f"give {unit}"

    def _bad(self, value: object, origin: str, repair: str) -> InvalidRequest:
        shown = "***" if self.kind == "secret" else repr(str(value))
        return InvalidRequest(
            f"Setting `{self.name}` is {shown} (from {origin}): {repair}.", param=self.name
        )

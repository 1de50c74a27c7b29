"""Names of models: what may be one, and which version a name, NAME@VERSION or alias stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from everloop.errors import InvalidRequest

EMBEDDED = "embedded"  # the version of a model that comes with the program
DEFAULT = "default"  # the alias that the setting `model` decides
LONGEST_CHAIN = 8  # aliases of aliases; longer ones are circles

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:-]*[A-Za-z0-9])?(?:/[A-Za-z0-9._-]*[A-Za-z0-9])?")
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*\*?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One immutable version of a model, with the folder of its files."""

    name: str
    version: str
    path: Path
    kind: Literal["full", "lora"]
    base: str | None  # NAME@VERSION below a LoRA
    source: str  # where it came from, in words: a hub id, a folder, a run
    created: int  # Unix seconds
    sha256: str  # of the folder, as store.files.folder_sha256 defines it

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """All names at one moment."""

    time: float  # monotonic seconds
    versions: Mapping[str, tuple[ModelVersion, ...]]  # newest last
    aliases: Mapping[str, str]
    default: str  # what `default` stands for

    def resolve(self, name: str) -> ModelVersion | None:
        """The version that a name stands for; a model's own name goes before an alias."""
        for _ in range(LONGEST_CHAIN):
            stem, _, number = name.partition("@")
            for version in reversed(self.versions.get(stem, ())):
                if number in ("", version.version):
                    return version
            target = self.default if name == DEFAULT else self._follow(name)
            if target is None:
                return None
            name = target
        return None

    def _follow(self, name: str) -> str | None:
        if name in self.aliases:
            return self.aliases[name]
        prefixes = [a for a in self.aliases if a.endswith("*") and name.startswith(a[:-1])]
        return self.aliases[max(prefixes, key=len)] if prefixes else None


def check_name(name: str) -> None:
    """Raises InvalidRequest for what can't be a model's name (and so a folder's)."""
    if not _NAME.fullmatch(name) or "--" in name or len(name) > 128 or name == DEFAULT:
        raise InvalidRequest(
            f"`{name}` can't be a model's name: use letters, digits and ._:- (no --), with one / "
            "at most.",
            param="name",
        )


def check_alias(alias: str) -> None:
    """Raises InvalidRequest for what can't be an alias."""
    if alias == DEFAULT:
        raise InvalidRequest(
            "`default` follows the setting `model`: set EVERLOOP_MODEL, or `model` in config.toml.",
            param="alias",
        )
    if not _ALIAS.fullmatch(alias) or len(alias) > 128:
        raise InvalidRequest(
            f"`{alias}` can't be an alias: use letters, digits and ._:/- and at most one * at the "
            "end.",
            param="alias",
        )

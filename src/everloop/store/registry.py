"""The registry of models: immutable versions, and aliases that are moved to switch serving.

Models come from the home (`HOME/models/NAME/VERSION/`) and from the program itself (embedded). A
name means its newest version; `NAME@VERSION` means that one. An alias may end in `*` and then
catches every name with that beginning; the exact and the longest win.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

import everloop
from everloop.errors import InvalidRequest, NotFound
from everloop.store import files
from everloop.store.database import Database
from everloop.store.names import DEFAULT, EMBEDDED, ModelVersion, Names, check_alias, check_name
from everloop.store.tables import aliases as alias_table
from everloop.store.tables import models as model_table

__all__ = ["EMBEDDED_DIR", "ModelVersion", "Registry", "embedded_models"]

EMBEDDED_DIR = Path(everloop.__file__).parent / "models"
FRESH_SECONDS = 1.0


class Registry:
    """Reads and writes the registry of one home. Safe to share among threads.

    What other processes change is seen within FRESH_SECONDS, an unknown name at once.
    """

    def __init__(
        self,
        db: Database,
        *,
        embedded_dir: Path = EMBEDDED_DIR,
        default_model: str = "everloop-small",
    ) -> None:
        self._db = db
        self._embedded = embedded_models(embedded_dir)
        self._default = default_model
        self._cached: Names | None = None
        self.folder = db.home / "models"

    def resolve(self, name: str) -> ModelVersion | None:
        """The version that a name, NAME@VERSION or alias stands for, or None."""
        found = self._names().resolve(name)
        return found or self._names(fresh=True).resolve(name)

    def get(self, name: str) -> ModelVersion:
        """As `resolve`, raising NotFound with what there is."""
        found = self.resolve(name)
        if found is None:
            there = ", ".join(sorted(self._names().versions)) or "none"
            raise NotFound(
                f"The model `{name}` does not exist. There is: {there}.",
                param="model",
                code="model_not_found",
            )
        return found

    def list_models(self) -> list[ModelVersion]:
        """Every version, by name, oldest first."""
        versions = self._names(fresh=True).versions
        return [version for name in sorted(versions) for version in versions[name]]

    def aliases(self) -> dict[str, str]:
        """Alias to target, with `default` first; keys ending in * are prefixes."""
        return {DEFAULT: self._default, **self._names().aliases}

    def register(
        self,
        name: str,
        path: Path,
        source: str,
        base: str | None = None,
        kind: Literal["full", "lora"] = "full",
        *,
        move: bool = False,
    ) -> ModelVersion:
        """Adds the files below `path` as the next version of `name`.

        Copies them, or takes the folder itself with `move`. All or nothing: a killed process
        leaves no version. Raises InvalidRequest (bad or taken name, empty folder), NotFound
        (`base`), DatabaseFailed.
        """
        check_name(name)
        if not path.is_dir() or not any(path.iterdir()):
            raise InvalidRequest(f"{path} is no folder with model files in it.", param="path")
        if (kind == "lora") != (base is not None):
            raise InvalidRequest("A LoRA needs its base model, a full model none.", param="base")
        base_id = None if base is None else self.get(base).id
        if name in self.aliases():
            raise InvalidRequest(
                f"`{name}` is an alias: choose another name, or first run "
                f"`everloop models alias remove {name}`.",
                param="name",
            )
        incoming = self.folder / f".incoming-{secrets.token_hex(8)}"
        incoming.parent.mkdir(parents=True, exist_ok=True)
        try:
            _bring(path, incoming, move=move)
            digest = files.folder_sha256(files.folder_sums(incoming))
            with self._db.write() as connection:
                newest = sa.select(sa.func.max(model_table.c.version)).where(
                    model_table.c.name == name
                )
                number = (connection.execute(newest).scalar() or 0) + 1
                target = self._path(name, number)
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.exists():  # left by a process that died before its commit
                    shutil.rmtree(target)
                os.replace(incoming, target)
                files.sync_folder(target.parent)
                connection.execute(
                    model_table.insert().values(
                        name=name,
                        version=number,
                        kind=kind,
                        base=base_id,
                        source=source,
                        sha256=digest,
                        created=int(time.time()),
                    )
                )
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        self._cached = None
        return self.get(f"{name}@{number}")

    def remove(self, name: str) -> list[ModelVersion]:
        """Deletes NAME@VERSION, or every version of NAME, with the files.

        Raises NotFound; InvalidRequest if the program brought it, or something still needs it.
        """
        names = self._names(fresh=True)
        stem, _, number = name.partition("@")
        chosen = [v for v in names.versions.get(stem, ()) if number in ("", v.version)]
        if not chosen:
            raise NotFound(f"No model `{name}`. `everloop models list` shows them.", param="model")
        gone = [v for v in chosen if v.version != EMBEDDED]
        if not gone:
            raise InvalidRequest(f"`{name}` is part of the program and stays.", param="model")
        self._check_unused(gone, names)
        with self._db.write() as connection:
            for version in gone:
                connection.execute(
                    model_table.update()
                    .where(
                        model_table.c.name == version.name,
                        model_table.c.version == int(version.version),
                    )
                    .values(removed=int(time.time()))
                )
        self._cached = None
        for version in gone:
            shutil.rmtree(version.path, ignore_errors=True)
        return gone

    def set_alias(self, alias: str, target: str) -> None:
        """Points `alias` at a model, a version or another alias; moves it if it is there.

        Raises InvalidRequest (bad name, a model's name, a circle), NotFound (target).
        """
        names = self._names(fresh=True)
        check_alias(alias)
        if alias in names.versions:
            raise InvalidRequest(
                f"`{alias}` is a model's own name: choose another alias.", param="alias"
            )
        if names.resolve(target) is None:
            raise NotFound(
                f"No model or alias `{target}` to point at. `everloop models list` shows them.",
                param="target",
            )
        changed = {**names.aliases, alias: target}
        if replace(names, aliases=changed).resolve(alias.rstrip("*")) is None:
            raise InvalidRequest(f"`{alias}` would point back at itself.", param="target")
        with self._db.write() as connection:
            connection.execute(alias_table.delete().where(alias_table.c.alias == alias))
            connection.execute(alias_table.insert().values(alias=alias, target=target))
        self._cached = None

    def remove_alias(self, alias: str) -> None:
        """Raises NotFound if there is no such alias."""
        with self._db.write() as connection:
            done = connection.execute(alias_table.delete().where(alias_table.c.alias == alias))
            if done.rowcount == 0:
                raise NotFound(
                    f"No alias `{alias}`. `everloop models alias list` shows them.", param="alias"
                )
        self._cached = None

    def _path(self, name: str, number: int) -> Path:
        return self.folder / name.replace("/", "--").replace(":", "+") / str(number)

    def _names(self, *, fresh: bool = False) -> Names:
        cached = self._cached
        now = time.monotonic()
        if not fresh and cached is not None and now - cached.time < FRESH_SECONDS:
            return cached
        with self._db.read() as connection:
            query = sa.select(model_table).where(model_table.c.removed.is_(None))
            rows = connection.execute(query.order_by(model_table.c.version)).all()
            pairs = connection.execute(sa.select(alias_table).order_by(alias_table.c.alias)).all()
        versions = {name: (version,) for name, version in self._embedded.items()}
        for row in rows:
            version = ModelVersion(
                name=row.name,
                version=str(row.version),
                path=self._path(row.name, row.version),
                kind=row.kind,
                base=row.base,
                source=row.source,
                created=row.created,
                sha256=row.sha256,
            )
            versions[row.name] = (*versions.get(row.name, ()), version)
        self._cached = Names(
            time=now,
            versions=versions,
            aliases={row.alias: row.target for row in pairs},
            default=self._default,
        )
        return self._cached

    def _check_unused(self, gone: list[ModelVersion], names: Names) -> None:
        lost = {version.id for version in gone}
        left = {
            name: tuple(v for v in versions if v.id not in lost)
            for name, versions in names.versions.items()
        }
        after = replace(names, versions=left)
        dangling = [
            f"`{alias}`"
            for alias, target in names.aliases.items()
            if names.resolve(target) and not after.resolve(target)
        ]
        if dangling:
            raise InvalidRequest(
                f"Aliases point there: {', '.join(dangling)}. Move them first "
                "(`everloop models alias set ALIAS MODEL`).",
                param="model",
            )
        for versions in left.values():
            for version in versions:
                if version.base in lost:
                    raise InvalidRequest(
                        f"`{version.id}` is a LoRA on it: remove that first.", param="model"
                    )


def _bring(path: Path, incoming: Path, *, move: bool) -> None:
    if move:
        try:
            os.rename(path, incoming)
            return
        except OSError:  # another file system
            pass
    incoming.mkdir()
    files.copy_folder(path, incoming)
    if move:
        shutil.rmtree(path)


def embedded_models(folder: Path = EMBEDDED_DIR) -> dict[str, ModelVersion]:
    """The models that come with the program, by name."""
    found = {}
    for config in sorted(folder.glob("*/config.json")):
        path = config.parent
        # The recorded digests are checked by `everloop doctor`, not at every start.
        sums = files.recorded_sums(path) or files.folder_sums(path)
        found[path.name] = ModelVersion(
            name=path.name,
            version=EMBEDDED,
            path=path,
            kind="full",
            base=None,
            source=f"everloop {everloop.__version__}",
            created=int(config.stat().st_mtime),
            sha256=files.folder_sha256(sums),
        )
    return found

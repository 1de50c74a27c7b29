"""`everloop import`: a model from a folder into the registry."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from everloop.cli.flags import takes_settings
from everloop.cli.output import AsJson, note, print_json
from everloop.settings import Settings

if TYPE_CHECKING:
    from everloop.model.importing import Imported


@takes_settings("home")
def import_(
    settings: Settings,
    directory: Annotated[Path, typer.Argument(help="In Hugging Face's or PEFT's layout.")],
    name: Annotated[str | None, typer.Option(help="Name here; default the folder's.")] = None,
    base: Annotated[str | None, typer.Option(help="For a LoRA adapter: its base here.")] = None,
    json: AsJson = False,
) -> None:
    """Add a model from a folder: checks its files, lets it speak, and copies it."""
    from everloop.model.importing import import_model
    from everloop.store.database import Database
    from everloop.store.registry import Registry

    with closing(Database(settings.home)) as db:
        registry = Registry(db, default_model=settings.model)
        imported = import_model(
            directory, registry, name=name or directory.absolute().name, base=base
        )
    say(imported, json=json)


def say(imported: Imported, *, json: bool) -> None:
    """Prints what was registered, and what the model said in its check."""
    version = imported.version
    if json:
        row = {"name": version.name, "version": version.version, "kind": version.kind}
        row |= {"sha256": version.sha256, "path": str(version.path), "sample": imported.sample}
        print_json(row)
        return
    note(f"It says: {imported.sample!r}")
    print(version.id)
    note(f"Try `everloop chat --model {version.name}`.")

"""`everloop models`: what there is to serve, and the names it goes by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everloop.cli.flags import takes_settings
from everloop.cli.output import AsJson, note, print_json, print_table, when
from everloop.settings import Settings

if TYPE_CHECKING:
    from everloop.store.registry import ModelVersion, Registry

app = typer.Typer(help="List, show and remove models; point names at them.", no_args_is_help=True)
alias_app = typer.Typer(help="Names that stand for a model.", no_args_is_help=True)
app.add_typer(alias_app, name="alias")

Name = Annotated[str, typer.Argument(help="A model, MODEL@VERSION or an alias.")]


@app.command("list")
@takes_settings("home")
def list_(settings: Settings, json: AsJson = False) -> None:
    """List every version of every model."""
    with _registry(settings) as registry:
        rows = [_row(version) for version in registry.list_models()]
    if json:
        print_json(rows)
        return
    shown = [
        (r["name"], r["version"], r["kind"], _size(r["bytes"]), when(r["created"]), r["source"])
        for r in rows
    ]
    print_table(("name", "version", "kind", "size", "created (UTC)", "source"), shown)


@app.command()
@takes_settings("home")
def show(settings: Settings, name: Name, json: AsJson = False) -> None:
    """Show the version that a name stands for."""
    with _registry(settings) as registry:
        version = registry.get(name)
        pointing = [a for a in registry.aliases() if registry.resolve(a) == version]
    row = {**_row(version), "path": str(version.path), "aliases": pointing}
    if json:
        print_json(row)
        return
    row["bytes"], row["created"] = _size(row["bytes"]), when(row["created"])
    row["aliases"] = ", ".join(pointing)
    print_table(("", ""), [(key, "" if value is None else value) for key, value in row.items()])


@app.command()
@takes_settings("home")
def remove(
    settings: Settings,
    name: Annotated[str, typer.Argument(help="A model (all its versions) or MODEL@VERSION.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Delete a model's files."""
    with _registry(settings) as registry:
        if not yes:
            typer.confirm(f"Delete {name} with its files?", abort=True, err=True)
        for version in registry.remove(name):
            note(f"Removed {version.id}.")


@alias_app.command("set")
@takes_settings("home", "model")
def alias_set(
    settings: Settings,
    alias: Annotated[str, typer.Argument(help="The name; with * at its end, every such name.")],
    target: Annotated[str, typer.Argument(help="A model, MODEL@VERSION or another alias.")],
) -> None:
    """Point a name at a model; a running server follows within a second."""
    with _registry(settings) as registry:
        registry.set_alias(alias, target)
        note(f"{alias} → {registry.get(target).id}")


@alias_app.command("remove")
@takes_settings("home")
def alias_remove(settings: Settings, alias: Annotated[str, typer.Argument()]) -> None:
    """Take a name away; the model stays."""
    with _registry(settings) as registry:
        registry.remove_alias(alias)
    note(f"Removed {alias}.")


@alias_app.command("list")
@takes_settings("home", "model")
def alias_list(settings: Settings, json: AsJson = False) -> None:
    """List every alias and what it points at."""
    with _registry(settings) as registry:
        aliases = registry.aliases()
    if json:
        print_json(aliases)
        return
    print_table(("alias", "target"), list(aliases.items()))


def _row(version: ModelVersion) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.version,
        "kind": version.kind,
        "base": version.base,
        "source": version.source,
        "created": version.created,
        "bytes": sum(file.stat().st_size for file in version.path.rglob("*") if file.is_file()),
        "sha256": version.sha256,
    }


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


@contextmanager
def _registry(settings: Settings) -> Iterator[Registry]:
    from everloop.store.database import Database
    from everloop.store.registry import Registry

    db = Database(settings.home)
    try:
        yield Registry(db, default_model=settings.model)
    finally:
        db.close()

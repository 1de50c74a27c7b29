"""`everloop keys`: who may call the API. Works beside a running server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from everloop.cli.flags import takes_settings
from everloop.cli.output import AsJson, note, print_json, print_table, when
from everloop.settings import Settings

if TYPE_CHECKING:
    from everloop.store.database import Database

app = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)


@app.command()
@takes_settings("home")
def create(
    settings: Settings,
    name: Annotated[str, typer.Argument(help="Who or what the key is for.")],
    key: Annotated[
        str | None, typer.Option("--key", help="Use this text instead of a random key.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Create a key and print it: once, for it is kept nowhere."""
    from everloop.store import keys

    with _database(settings) as db:
        text, created = keys.create(db, name, plaintext=key)
    if json:
        print_json({**asdict(created), "key": text})
        return
    note(f"Key `{created.name}` ({created.id}), shown only now:")
    print(text)


@app.command("list")
@takes_settings("home")
def list_(settings: Settings, json: AsJson = False) -> None:
    """List keys, revoked ones too; their texts are kept nowhere."""
    from everloop.store import keys

    with _database(settings) as db:
        found = keys.list_keys(db)
    if json:
        print_json([asdict(key) for key in found])
        return
    rows = [(k.id, k.name, k.hint, when(k.created), when(k.revoked)) for k in found]
    print_table(("id", "name", "key", "created (UTC)", "revoked (UTC)"), rows)


@app.command()
@takes_settings("home")
def revoke(
    settings: Settings, key: Annotated[str, typer.Argument(help="The key's id or name.")]
) -> None:
    """End a key for good; a running server refuses it within a second."""
    from everloop.store import keys

    with _database(settings) as db:
        gone = keys.revoke(db, key)
    note(f"Revoked `{gone.name}` ({gone.id}).")


@contextmanager
def _database(settings: Settings) -> Iterator[Database]:
    from everloop.store.database import Database

    db = Database(settings.home)
    try:
        yield db
    finally:
        db.close()

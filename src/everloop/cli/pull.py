"""`everloop pull`: a model from a Hugging Face hub into the registry."""

from __future__ import annotations

import shutil
import sys
from contextlib import closing
from typing import Annotated

import typer

from everloop.cli.flags import takes_settings
from everloop.cli.import_ import say
from everloop.cli.output import AsJson, note
from everloop.settings import Settings


@takes_settings("home")
def pull(
    settings: Settings,
    model: Annotated[str, typer.Argument(metavar="ORG/NAME[@REVISION]", help="On the hub.")],
    name: Annotated[str | None, typer.Option(help="Name here; default ORG/NAME.")] = None,
    base: Annotated[str | None, typer.Option(help="For a LoRA adapter: its base here.")] = None,
    json: AsJson = False,
) -> None:
    """Download a model from a Hugging Face hub.

    HF_ENDPOINT chooses a mirror, HF_TOKEN opens gated models. A broken download goes on where it
    stopped when the command runs again. Files that can run code are never fetched.
    """
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    from everloop.model import hub
    from everloop.model.importing import import_model
    from everloop.store.database import Database
    from everloop.store.registry import Registry

    if not sys.stderr.isatty():
        disable_progress_bars()
    repository, _ = hub.parse(model)
    with closing(Database(settings.home)) as db:
        registry = Registry(db, default_model=settings.model)
        pulled = hub.pull(model, settings.home / "downloads")
        note(f"Checking {repository} at {pulled.commit[:12]} …")
        source = f"hub {repository}@{pulled.commit}"
        imported = import_model(
            pulled.directory, registry, name=name or repository, source=source, base=base
        )
    shutil.rmtree(pulled.directory, ignore_errors=True)
    say(imported, json=json)

"""`everloop export`: a model as a folder that transformers, vLLM and llama.cpp load."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from everloop.cli.flags import takes_settings
from everloop.cli.output import AsJson, note, print_json
from everloop.errors import InvalidRequest
from everloop.settings import Settings


@takes_settings("home")
def export(
    settings: Settings,
    name: Annotated[str, typer.Argument(help="A model, MODEL@VERSION or an alias.")],
    directory: Annotated[Path, typer.Argument(help="A new folder.")],
    dtype: Annotated[
        str | None, typer.Option(help="fp32, bf16 or fp16; default as stored.", metavar="TYPE")
    ] = None,
    shard: Annotated[float, typer.Option(help="Largest weights file, in GB.")] = 5.0,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="A LoRA's own files, not merged into its base.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Write a model as a folder that other programs load, and compare it with the original."""
    from everloop.model.export import export_adapter, export_model
    from everloop.store.database import Database
    from everloop.store.registry import Registry

    if not shard > 0:
        raise InvalidRequest(f"--shard {shard} must be above 0.", param="shard")
    with closing(Database(settings.home)) as db:
        registry = Registry(db, default_model=settings.model)
        version = registry.get(name)
        if adapter:
            if dtype is not None:
                raise InvalidRequest("--dtype can't go with --adapter.", param="dtype")
            written = export_adapter(version, registry, directory)
        else:
            written = export_model(
                version, registry, directory, dtype=dtype, max_shard_bytes=int(shard * 1e9)
            )
    if json:
        row = {"model": version.id, "path": str(directory.absolute()), "bytes": written.bytes}
        print_json({**row, "max_logit_difference": written.max_logit_difference})
        return
    print(directory.absolute())
    note(
        f"{version.id}, {written.bytes / 1e6:.1f} MB; largest difference of a logit when read "
        f"back: {written.max_logit_difference:.3g}."
    )

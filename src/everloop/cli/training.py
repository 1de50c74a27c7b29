"""What `pretrain` and `finetune` share: their options checked where a type can't say it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from everloop.cli.output import note
from everloop.errors import InvalidRequest, NotFound
from everloop.train.options import Options

_CHOICES = {"precision": ("auto", "fp32", "bf16"), "save_dtype": ("fp32", "bf16", "fp16")}
_POSITIVE = (
    "minutes", "flops", "tokens", "epochs", "context_length", "sequence_length", "batch_tokens",
    "micro_tokens", "checkpoint_minutes",
)  # fmt: skip


def options(**given: Any) -> Options:
    """Training options, or InvalidRequest naming the flag."""
    for name, allowed in _CHOICES.items():
        if given.get(name) is not None and given[name] not in allowed:
            raise InvalidRequest(
                f"{_flag(name)} {given[name]!r} is unknown: one of {', '.join(allowed)}.",
                param=name,
            )
    for name in _POSITIVE:
        if given.get(name) is not None and not given[name] > 0:
            raise InvalidRequest(f"{_flag(name)} {given[name]} must be above 0.", param=name)
    return Options(**given)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def model_directory(model: str) -> Path:
    """The directory of a registered full model, or `model` itself where it is one."""
    given = Path(model)
    if (given / "config.json").is_file():
        return given
    from everloop.settings import load
    from everloop.store.database import Database
    from everloop.store.registry import Registry

    settings = load()
    with closing(Database(settings.home)) as db:
        version = Registry(db, default_model=settings.model).get(model)
    if version.kind == "lora":
        raise InvalidRequest(
            f"`{model}` is a LoRA adapter: tune its base `{version.base}` again with both data "
            "sets, or merge it first with `everloop export`.",
            param="model",
        )
    return version.path


def require_registrable(name: str, *, base: str, adapter: bool) -> None:
    """Raises what `register` would, before hours of training and not after them."""
    from everloop.settings import load
    from everloop.store.database import Database
    from everloop.store.names import check_name
    from everloop.store.registry import Registry

    check_name(name)
    settings = load()
    with closing(Database(settings.home)) as db:
        registry = Registry(db, default_model=settings.model)
        if name in registry.aliases():
            raise InvalidRequest(
                f"--name {name} is an alias: choose another, or first run "
                f"`everloop models alias remove {name}`.",
                param="name",
            )
        if adapter and registry.resolve(base) is None:
            raise InvalidRequest(
                f"An adapter is registered on a model that has a name, and {base} has none: run "
                f"`everloop import {base}` first and tune that, or leave --name out.",
                param="name",
            )


def packed(data: Path, base: Path, out: Path, noise: float | None = None) -> Path:
    """Packed examples: `data` itself, or packed now from a specification or a file of rows into
    the run directory, with `noise` in a share of them."""
    if noise is not None and not 0 <= noise <= 1:
        raise InvalidRequest(f"--noise {noise} must be in 0…1.", param="noise")
    if (data / "manifest.json").is_file():
        if noise is not None:
            raise InvalidRequest(
                f"--noise: {data} is packed already. Give the rows or their specification, or pack "
                "them with noise = RATE in it.",
                param="noise",
            )
        return data
    from everloop.cli.data import Refused, show_progress
    from everloop.data.examination import examine
    from everloop.data.pack import PackOptions, pack
    from everloop.data.sources import load as load_sources
    from everloop.settings import load

    if not data.exists():
        raise NotFound(f"{data}: no such file or directory.", param="data")
    target = out / "packed"
    out.mkdir(parents=True, exist_ok=True)
    sources = load_sources(data, load().data)
    if noise is not None:
        if all(source.kind != "examples" for source in sources):
            raise InvalidRequest(
                f"--noise is for examples, and {data} has texts only: they would be learnt with "
                "their mistakes.",
                param="noise",
            )
        sources = tuple(
            replace(source, noise=noise) if source.kind == "examples" else source
            for source in sources
        )
    chosen = PackOptions(val_fraction=0.05)
    if not target.exists():
        for name, findings in examine(sources, chosen).items():
            for finding in findings:
                note(f"{name}: {finding}")
    refused = Refused()
    with show_progress() as report:
        pack(sources, base, target, options=chosen, on_progress=report, on_refusal=refused)
    refused.sum_up()
    return target


def register(name: str, directory: Path, *, base: str, adapter: bool) -> None:
    """Makes the result a version of `name`, checked as an imported model is."""
    from everloop.model.importing import import_model
    from everloop.settings import load
    from everloop.store.database import Database
    from everloop.store.registry import Registry

    settings = load()
    with closing(Database(settings.home)) as db:
        import_model(
            directory,
            Registry(db, default_model=settings.model),
            name=name,
            source=f"finetune of {base}",
            base=base if adapter else None,
        )

"""Turns rows of the settings table into a command's flags, so that no flag is written twice."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from everloop.settings import SPECS, load

_METAVARS = {"int": "N", "bytes": "SIZE", "seconds": "TIME", "path": "DIR", "url": "URL"}


def takes_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the flags of these settings (all without names).

    The command's first parameter receives the resolved Settings; its other parameters stay.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        chosen = names or tuple(SPECS)

        @functools.wraps(function)
        def command(**given: Any) -> None:
            flags = {name: given.pop(name) for name in chosen}
            function(load(flags), **given)

        hints = get_type_hints(function, include_extras=True)
        _settings, *own = inspect.signature(function).parameters.values()
        parameters = [
            parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in own
        ] + [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name)
            )
            for name in chosen
        ]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {item.name: item.annotation for item in parameters}
        return command

    return decorate


def _option(name: str) -> Any:
    # A text to the parser: settings.load reads and checks it, as it does for every other origin.
    spec = SPECS[name]
    return Annotated[
        str | None,
        typer.Option(
            spec.flag,
            help=f"{spec.help} ({', '.join(spec.env)})",
            metavar="|".join(spec.choices) or _METAVARS.get(spec.kind, "TEXT"),
            show_default=False if spec.default is None else spec.show(spec.default),
            rich_help_panel="Settings",
        ),
    ]

"""`everloop config` and `everloop version`."""

from __future__ import annotations

import platform

import typer

from everloop import __version__
from everloop.cli.flags import takes_settings
from everloop.cli.output import AsJson, note, print_json, print_table
from everloop.settings import SPECS, Settings, unknown_environment

app = typer.Typer(help="Show every setting, and where its value came from.", no_args_is_help=True)


@app.callback()
def config() -> None:
    """Show every setting, and where its value came from."""


@app.command()
@takes_settings()
def show(settings: Settings, json: AsJson = False) -> None:
    """Print each setting's value and origin: flag, environment, file or default."""
    for name, near in unknown_environment().items():
        note(
            f"warning: {name} is no setting and has no effect."
            + f" Did you mean {near}?" * bool(near)
        )
    rows = [(s, getattr(settings, s.name), settings.origin(s.name)) for s in SPECS.values()]
    if json:
        print_json(
            {
                spec.name: {
                    "value": spec.show(value) if spec.kind == "secret" else value,
                    "origin": origin,
                }
                for spec, value, origin in rows
            }
        )
        return
    shown = [(spec.name, spec.show(value), origin) for spec, value, origin in rows]
    print_table(("setting", "value", "origin"), shown)


def version(json: AsJson = False) -> None:
    """Print the version."""
    if json:
        print_json({"everloop": __version__, "python": platform.python_version()})
    else:
        print(__version__)

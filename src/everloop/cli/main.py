"""The command `everloop`: names every command, loads only the one that runs.

An error meant for the user becomes one line on stderr and its exit code; anything else that is
raised is a defect and keeps its traceback.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from everloop import __version__
from everloop.errors import EverloopError

if TYPE_CHECKING:
    from typer._click import Command, Context

INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Lazy:
    """Where a command lives, and what `--help` says before it is loaded."""

    target: str  # module:function, or module:app for a group
    help: str
    panel: str


USE, IMPROVE, MANAGE = "Use a model", "Make and improve one", "Look after the house"

COMMANDS = {
    "serve": Lazy("serve:serve", "Serve models over an OpenAI-compatible API.", USE),
    "chat": Lazy("chat:chat", "Talk with a model in the terminal, or ask one question.", USE),
    "models": Lazy("models:app", "List, show and remove models; point names at them.", USE),
    "pull": Lazy("pull:pull", "Download a model from a Hugging Face hub.", USE),
    "import": Lazy("import_:import_", "Add a model from a folder.", USE),
    "export": Lazy("export:export", "Write a model as a folder that other programs load.", USE),
    "data": Lazy("data:app", "Inspect, clean, deduplicate and pack data.", IMPROVE),
    "tokenizer": Lazy("tokenizer:app", "Train a tokenizer, or look at its tokens.", IMPROVE),
    "pretrain": Lazy("pretrain:pretrain", "Train a model from raw text.", IMPROVE),
    "finetune": Lazy("finetune:finetune", "Tune a model with examples.", IMPROVE),
    "evaluate": Lazy("evaluate:evaluate", "Measure a model on tasks and held-out text.", IMPROVE),
    "keys": Lazy("keys:app", "Create, list and revoke API keys.", MANAGE),
    "config": Lazy("config:app", "Show every setting, and where its value came from.", MANAGE),
    "doctor": Lazy("doctor:doctor", "Check this machine and home; say how to repair.", MANAGE),
    "version": Lazy("config:version", "Print the version.", MANAGE),
}


class LazyGroup(TyperGroup):
    """Lists COMMANDS from the table; imports a command's module when it is to run."""

    def list_commands(self, ctx: Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        lazy = COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        return TyperCommand(cmd_name, help=lazy.help, rich_help_panel=lazy.panel)

    def resolve_command(
        self, ctx: Context, args: list[str]
    ) -> tuple[str | None, Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, None if command is None or name is None else load(name), rest


def load(name: str) -> Command:
    """Imports a command and gives it its name and one line of help."""
    lazy = COMMANDS[name]
    module, _, attribute = lazy.target.partition(":")
    found: Any = getattr(importlib.import_module(f"everloop.cli.{module}"), attribute)
    if not isinstance(found, typer.Typer):
        function, found = found, typer.Typer()
        found.command(name)(function)
    found.rich_markup_mode, found._add_completion = _markup(), False
    command: Command = typer.main.get_command(found)
    command.name = name
    command.help = command.help or lazy.help
    return command


def _markup() -> Any:
    """Boxes and colours on a terminal, plain lines on a pipe."""
    return "rich" if sys.stdout.isatty() else None


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


app = typer.Typer(
    name="everloop",
    cls=LazyGroup,
    rich_markup_mode=_markup(),
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Everloop 生生: pretrain, serve, tune and check a language model that you own.",
)


@app.callback()
def everloop(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and leave.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Only what comes before the command."""


def main() -> None:
    """Runs the command line and leaves with its exit code."""
    try:
        app(prog_name="everloop")
    except EverloopError as error:
        _fail(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _fail(message: str) -> None:
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    print("\033[31merror:\033[0m" if colour else "error:", message, file=sys.stderr)

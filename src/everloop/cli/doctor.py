"""`everloop doctor`: is everything here fit to serve?"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from everloop.cli.flags import takes_settings
from everloop.cli.output import AsJson, colourful, print_json
from everloop.settings import Settings

MARKS = {"ok": ("✓", "32"), "warning": ("!", "33"), "failure": ("✗", "31")}


@takes_settings()
def doctor(
    settings: Settings,
    network: Annotated[bool, typer.Option("--network", help="Ask the model hub, too.")] = False,
    json: AsJson = False,
) -> None:
    """Check this machine and home, and say how to repair what is wrong (exit code 1)."""
    from everloop.cli import checks

    found = []
    for check in checks.run(settings, network=network):
        found.append(check)
        if json:
            continue
        mark, colour = MARKS[check.status]
        mark = f"\033[{colour}m{mark}\033[0m" if colourful(sys.stdout) else mark
        print(f"{mark} {check.name:<10} {check.found}", flush=True)
        if check.repair:
            print(f"  {'':<10} → {check.repair}", flush=True)
    if json:
        print_json([asdict(check) for check in found])
    if any(check.status == "failure" for check in found):
        raise typer.Exit(1)

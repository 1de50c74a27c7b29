"""`everloop serve`: the API, and on its first start everything one needs to call it."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

from everloop.cli.flags import takes_settings
from everloop.cli.output import note
from everloop.settings import Settings, unknown_environment

if TYPE_CHECKING:
    from everloop.server.run import Listening

QUESTION = "今天天气怎么样？"


@takes_settings()
def serve(settings: Settings) -> None:
    """Serve models over an OpenAI-compatible API until Ctrl-C."""
    for name, near in unknown_environment().items():
        hint = f" Did you mean {near}?" if near else ""
        note(f"warning: {name} is no setting and has no effect.{hint}")

    note(f"Starting with {settings.remote_url or settings.model} …")

    from everloop.server import run

    run.serve(settings, announce=lambda listening: _announce(settings, listening))


def _announce(settings: Settings, listening: Listening) -> None:
    key = listening.new_key
    shown = key or "YOUR_KEY"
    lines = [
        "",
        f"Everloop serves {listening.model}",
        f"  base URL  {listening.base_url}",
    ]
    if key is not None:
        lines.append(f"  key       {key} (shown only this once)")
    elif settings.api_key is not None and not listening.notes:
        lines.append(f"  key       yours, from {settings.origin('api_key')}")
    else:
        lines.append("  keys      everloop keys list; everloop keys create NAME makes another")
    lines += [
        f"  state     {settings.home}",
        "  log       one line a request, on standard error",
        *(f"  note      {text}" for text in listening.notes),
        "",
        "Paste into another terminal:",
        "",
        f"curl {listening.base_url}/completions -H {shlex.quote(f'Authorization: Bearer {shown}')} "
        "-H 'Content-Type: application/json' "
        f'-d \'{{"model": "gpt-4", "prompt": "{QUESTION}", "max_tokens": 100}}\'',
        "",
        "or, in Python:",
        "",
        "from openai import OpenAI",
        f'client = OpenAI(base_url="{listening.base_url}", api_key={json.dumps(shown)})',
        'messages = [{"role": "user", "content": "' + QUESTION + '"}]',
        'print(client.chat.completions.create(model="gpt-4", messages=messages)'
        ".choices[0].message.content)",
        "",
    ]
    print("\n".join(lines), file=sys.stdout, flush=True)

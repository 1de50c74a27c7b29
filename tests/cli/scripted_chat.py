"""`everloop chat` on the scripted engine: `python -m tests.cli.scripted_chat ARGUMENTS`."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

from everloop.cli import chat, main
from tests.server.scripted import ScriptedEngine


class Parrot(ScriptedEngine):
    """Says what it was given when asked to `say:all`."""

    async def generate(self, request: Any) -> Any:
        generation = await super().generate(request)
        if generation.rest == "all":
            turns = request.prompt
            generation.rest = "|".join(f"{turn['role']}={turn['content']}" for turn in turns)
        return generation


@contextlib.asynccontextmanager
async def engine(*_: object) -> AsyncIterator[ScriptedEngine]:
    made = Parrot("tiny", 0)
    try:
        yield made
    finally:
        await made.close()
        assert made.running == 0, "a generation was left running"


# A shell that starts the tests in the background hands down an ignored Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
chat._engine = engine  # type: ignore[assignment]
sys.argv[1:1] = ["chat"]
main.main()

"""The child's end of a side: one JSON request a line in, one JSON answer a line out.

Standard library only: it runs in whatever environment a side needs. All sides answer the same
operations, each with what it measured itself:

    read        prompt                          → seconds
    write       prompts, tokens                 → seconds, tokens (in all, without the prompts)
    perplexity  windows                         → nats, tokens
    questions   text, questions, tokens, cache  → seconds

and take `model` (a path), `weights` (8bit, 4bit, full) and `threads` (0: the side's own choice).
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any


class Skip(Exception):
    """This side can't do that; the message says why."""


def serve(operations: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """Answers requests until standard input ends."""
    # Libraries print where they like: keep the answers' channel to ourselves.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = operations[request.pop("op")](**request)
        except Skip as reason:
            answer = {"skip": str(reason)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

"""The request's `clean`: the user's texts cleaned before the call, and what was done to them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from everloop.engine.interface import Message, Prompt
from everloop.errors import InvalidRequest
from everloop.server.explain import wrong_type
from everloop.tasks.clean import STEPS, cleaned

Report = list[dict[str, Any]]
"""One entry for each text: its place, language, the steps that changed it, and it after them."""


def steps(value: Any) -> tuple[str, ...]:
    """true, false or a list of steps."""
    if isinstance(value, bool):
        return STEPS if value else ()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise wrong_type("clean", "a boolean or an array of strings", value)
    if unknown := [name for name in value if name not in STEPS]:
        raise InvalidRequest(
            f"Invalid value: '{unknown[0][:40]}'. Supported values of 'clean' are: "
            f"{', '.join(map(repr, STEPS))}.",
            param="clean",
            code="invalid_value",
        )
    return tuple(value)


async def clean_messages(
    turns: Sequence[Message], chosen: tuple[str, ...]
) -> tuple[tuple[Message, ...], Report]:
    """What the user says, cleaned; the other roles' texts are the caller's own."""
    if not chosen:
        return tuple(turns), []
    users = [i for i, turn in enumerate(turns) if turn["role"] == "user"]
    texts = [(f"messages[{i}].content", turns[i]["content"]) for i in users]
    report = await _clean(texts, chosen)
    made = list(turns)
    for i, entry in zip(users, report, strict=True):
        made[i] = Message(role="user", content=entry["text"])
    return tuple(made), report


async def clean_prompts(
    prompts: Sequence[Prompt], chosen: tuple[str, ...]
) -> tuple[tuple[Prompt, ...], Report]:
    """Each prompt, cleaned. Raises InvalidRequest where one is token ids."""
    if not chosen:
        return tuple(prompts), []
    texts = []
    for i, prompt in enumerate(prompts):
        path = "prompt" if len(prompts) == 1 else f"prompt[{i}]"
        if not isinstance(prompt, str):
            raise InvalidRequest(
                f"Invalid '{path}': 'clean' needs text, not token ids. Send the text, or leave "
                "'clean' out.",
                param=path,
            )
        texts.append((path, prompt))
    report = await _clean(texts, chosen)
    return tuple(entry["text"] for entry in report), report


async def _clean(texts: Sequence[tuple[str, str]], chosen: tuple[str, ...]) -> Report:
    def work() -> Report:
        report = []
        for path, text in texts:
            found = cleaned(text, chosen, param=path)
            report.append(
                {
                    "param": path,
                    "language": found.language,
                    "steps": list(found.steps),
                    "text": found.text,
                }
            )
        return report

    # In a thread: megabytes of text take seconds, and others must be answered meanwhile.
    return await asyncio.to_thread(work)


def told(report: Report) -> dict[str, Any]:
    """What the reply says of it; nothing where no cleaning was asked for."""
    return {"everloop": {"cleaned": report}} if report else {}

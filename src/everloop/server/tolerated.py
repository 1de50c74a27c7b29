"""Parameters that are accepted and documented as without effect, each with its reason: clients send
them by habit, and a value that asks for what isn't there is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from everloop.errors import InvalidRequest
from everloop.server import explain


@dataclass(frozen=True, slots=True)
class Tolerated:
    """A parameter without effect here. `values` are those accepted; None: all of type `kind`."""

    why: str
    values: tuple[object, ...] | None = None
    kind: type | None = None
    what: str = ""

    def check(self, name: str, value: object) -> None:
        """Raises InvalidRequest for a value that isn't accepted; null means: not given."""
        if value is None:
            return
        if self.values is None:
            if self.kind is not None and not isinstance(value, self.kind):
                raise explain.wrong_type(name, self.what, value)
            return
        if not any(value == v and type(value) is type(v) for v in self.values):
            useful = [orjson.dumps(v).decode() for v in self.values if v not in ([], {})]
            then = f" Only {' or '.join(useful)} is accepted." if useful else " Leave it out."
            raise InvalidRequest(
                f"Unsupported {'value' if useful else 'parameter'}: '{name}' is not supported as "
                f"given: {self.why}.{then}",
                param=name,
                code="unsupported_value" if useful else "unsupported_parameter",
            )


_IDENTITY = "names the caller's user; tenants are told apart by key"
_CACHE = "prompts are cached as memory allows"
_NO_TOOLS = "this model calls no tools"
_TEXT_ONLY = "only text comes in and goes out"

COMMON = {
    "user": Tolerated(_IDENTITY, kind=str, what="a string"),
}
CHAT_ONLY = {
    "metadata": Tolerated("answers are not stored", kind=dict, what="an object"),
    "store": Tolerated("answers are not stored", (False,)),
    "service_tier": Tolerated("there is one tier", ("auto", "default")),
    "safety_identifier": Tolerated(_IDENTITY, kind=str, what="a string"),
    "prompt_cache_key": Tolerated(_CACHE, kind=str, what="a string"),
    "prompt_cache_retention": Tolerated(_CACHE, ("in_memory", "in-memory")),
    "prompt_cache_options": Tolerated(_CACHE, ({}, {"mode": "implicit"})),
    "response_format": Tolerated("answers are free text", ({"type": "text"},)),
    "modalities": Tolerated(_TEXT_ONLY, (["text"],)),
    "audio": Tolerated(_TEXT_ONLY, ()),
    "tools": Tolerated(_NO_TOOLS, ([],)),
    "tool_choice": Tolerated(_NO_TOOLS, ("none", "auto")),
    "parallel_tool_calls": Tolerated(_NO_TOOLS, kind=bool, what="a boolean"),
    "functions": Tolerated(_NO_TOOLS, ([],)),
    "function_call": Tolerated(_NO_TOOLS, ("none", "auto")),
    "reasoning_effort": Tolerated("this model answers without a hidden reasoning", ("none",)),
    "verbosity": Tolerated("ask for the length in the prompt", ("medium",)),
    "moderation": Tolerated("answers are not moderated", ()),
    "web_search_options": Tolerated("the server asks no other server", ()),
}

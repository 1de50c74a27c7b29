"""The request bodies in /openapi.json, written from the same tables that check them."""

from __future__ import annotations

from typing import Any

from everloop.server.parameters import Parameters


def body_of(kind: type[Parameters]) -> dict[str, Any]:
    """`openapi_extra` of a route with this body."""
    schema = kind.model_json_schema()
    definitions = schema.pop("$defs", {})
    properties = schema["properties"]
    for name, value in properties.items():
        if "$ref" in value:  # in place: FastAPI keeps no definitions of ours
            properties[name] = definitions[value["$ref"].rpartition("/")[2]]
    for name, rule in kind.tolerated.items():
        properties[name] = {"description": f"No effect: {rule.why}.", **_accepted(rule.values)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _accepted(values: tuple[object, ...] | None) -> dict[str, Any]:
    return {} if values is None else {"enum": [*values, None]}

"""Any body at all: a 200 or a 4xx in OpenAI's shape, never a 5xx, a 409 or a 422."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everloop.server.parameters import (
    ChatParameters,
    CompletionParameters,
    EditParameters,
    EmbeddingParameters,
    Parameters,
)
from tests.server.ask import error
from tests.server.process import Running

PATHS: dict[str, type[Parameters]] = {
    "/v1/chat/completions": ChatParameters,
    "/v1/completions": CompletionParameters,
    "/v1/edits": EditParameters,
    "/v1/embeddings": EmbeddingParameters,
}
text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
number = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
leaf = st.none() | st.booleans() | number | st.integers(-3, 5) | text
value = st.recursive(
    leaf,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=8,
)
role = st.sampled_from(["user", "system", "assistant", "developer", "tool"]) | leaf
message = st.fixed_dictionaries(
    {"role": role, "content": text | value}, optional={"name": leaf, "tool_calls": value}
)


def bodies(kind: type[Parameters]) -> st.SearchStrategy[dict[str, Any]]:
    names = [*kind.model_fields, *kind.tolerated]
    required: dict[str, Any] = {"model": st.just("tiny")}
    if kind is ChatParameters:
        required["messages"] = st.lists(message, min_size=1, max_size=3)
    elif kind is CompletionParameters:
        required["prompt"] = text | value
    elif kind is EditParameters:
        required["instruction"] = text
    else:
        required["input"] = text | value
    sane = st.fixed_dictionaries(
        required, optional={name: leaf for name in names if name not in required}
    )
    wild = st.dictionaries(st.sampled_from(names) | text, value, max_size=6)
    return sane | wild


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from(sorted(PATHS)))
def test_no_body_is_a_server_error(server: Running, data: st.DataObject, path: str) -> None:
    body = data.draw(bodies(PATHS[path]))
    with server.client() as http:
        response = http.post(path, content=orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS))
    check(response)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(sorted(PATHS)))
def test_no_bytes_are_a_server_error(server: Running, raw: bytes, path: str) -> None:
    with server.client() as http:
        check(http.post(path, content=raw))


def check(response: Any) -> None:
    if response.status_code == 200:
        return
    assert response.status_code in (400, 404), response.text
    found = error(response)
    assert found["message"]
    if response.status_code == 400 and "JSON" not in found["message"]:
        assert found["param"] is not None, found

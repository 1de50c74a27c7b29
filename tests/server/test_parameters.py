"""The tables of parameters: complete against OpenAI's own types, and documented."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from everloop.engine.interface import Sampling
from everloop.errors import InvalidRequest
from everloop.server.parameters import (
    ChatParameters,
    CompletionParameters,
    EditParameters,
    EmbeddingParameters,
    Parameters,
)
from tests.server.process import ROOT

ALL = (ChatParameters, CompletionParameters, EditParameters, EmbeddingParameters)


def names(kind: type[Parameters]) -> set[str]:
    return {*kind.model_fields, *kind.tolerated}


def test_every_parameter_of_the_official_client_is_decided() -> None:
    from openai.types import completion_create_params, embedding_create_params
    from openai.types.chat import completion_create_params as chat_create_params

    for kind, params in (
        (ChatParameters, chat_create_params.CompletionCreateParamsStreaming),
        (CompletionParameters, completion_create_params.CompletionCreateParamsStreaming),
        (EmbeddingParameters, embedding_create_params.EmbeddingCreateParams),
    ):
        official = set(params.__annotations__)
        assert official <= names(kind), f"undecided: {official - names(kind)}"


@pytest.mark.parametrize("page", ["docs/api.md", "docs/api.zh-CN.md"])
def test_every_parameter_is_documented(page: str) -> None:
    documented = set(re.findall(r"`([a-z_]+)`", (ROOT / page).read_text(encoding="utf-8")))
    for kind in ALL:
        assert names(kind) <= documented, f"{page} lacks {names(kind) - documented}"


def test_a_tolerated_value_is_compared_with_its_type() -> None:
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
    ChatParameters.parse({**body, "store": False, "response_format": {"type": "text"}})
    refused: list[dict[str, Any]] = [
        {"store": 0},
        {"store": ""},
        {"tools": {}},
        {"modalities": "text"},
    ]
    for wrong in refused:
        with pytest.raises(InvalidRequest) as caught:
            ChatParameters.parse({**body, **wrong})
        assert caught.value.param == next(iter(wrong))


def test_null_means_not_given_but_for_what_is_required() -> None:
    body: dict[str, Any] = {"model": "m", "prompt": "a"}
    nothing = dict.fromkeys(names(CompletionParameters) - set(body))
    assert CompletionParameters.parse({**body, **nothing}) == CompletionParameters.parse(body)
    with pytest.raises(InvalidRequest, match="null"):
        CompletionParameters.parse({**body, "prompt": None})


def test_a_silent_request_is_sampled_as_the_model_advises() -> None:
    advised = Sampling(temperature=0.6, top_p=0.9, repetition_penalty=1.1)
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "a"}]}
    assert ChatParameters.parse({**body, "temperature": None}).sampling(advised) == advised
    asked = ChatParameters.parse({**body, "temperature": 1.0, "seed": -1}).sampling(advised)
    assert asked == replace(advised, temperature=1.0, seed=2**63 - 1)
    edit = EditParameters.parse({"model": "m", "instruction": "i", "temperature": 0.0})
    assert edit.sampling(advised) == replace(advised, temperature=0.0)

"""What each endpoint accepts: the parameters that do something, those that are accepted and
documented as without effect, and those that are refused by name. Nothing else gets through.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.functional_validators import BeforeValidator, PlainValidator
from pydantic.json_schema import WithJsonSchema

from everloop.engine.interface import Message, Prompt, Sampling
from everloop.errors import InvalidRequest
from everloop.server import cleaning, explain, values
from everloop.server.tolerated import CHAT_ONLY, COMMON, Tolerated
from everloop.settings import Settings
from everloop.tasks.clean import STEPS

_SAMPLING = {field.name for field in fields(Sampling)}


class Parameters(BaseModel):
    """A body, checked. Fields are the parameters with an effect."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    tolerated: ClassVar[Mapping[str, Tolerated]] = {}

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Raises InvalidRequest naming the first parameter at fault."""
        rest = {}
        for name, value in body.items():
            field = cls.model_fields.get(name)
            if field is not None:
                if value is not None or field.is_required():  # null means: not given
                    rest[name] = value
            elif name in cls.tolerated:
                cls.tolerated[name].check(name, value)
            else:
                near = difflib.get_close_matches(name[:60], [*cls.model_fields, *cls.tolerated], 1)
                raise explain.unknown(name, f" Did you mean '{near[0]}'?" if near else "")
        try:
            return cls.model_validate(rest)
        except ValidationError as error:
            raise explain.explained(error) from None

    def sampling(self, advised: Sampling) -> Sampling:
        """What was asked for; where nothing was, what the model's makers advise."""
        given = {n: getattr(self, n) for n in self.model_fields_set & _SAMPLING}
        if "seed" in given:
            given["seed"] %= 2**63
        return replace(advised, **given)

    def check(self, settings: Settings) -> None:
        """The limits that settings decide. Raises InvalidRequest."""


_SCHEMA_STOP = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_SCHEMA_PROMPT = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ]
}
_SCHEMA_MESSAGES = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant"]},
            "content": {"anyOf": [{"type": "string"}, {"type": "array"}]},
            "name": {"type": "string"},
        },
    },
}

Stop = Annotated[
    tuple[str, ...], BeforeValidator(values.stop), WithJsonSchema(_SCHEMA_STOP), Field(strict=False)
]
LogitBias = Annotated[
    dict[int, float],
    PlainValidator(values.logit_bias),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "number"}}),
]
Prompts = Annotated[Any, PlainValidator(values.prompts), WithJsonSchema(_SCHEMA_PROMPT)]
Messages = Annotated[Any, PlainValidator(values.messages), WithJsonSchema(_SCHEMA_MESSAGES)]
Texts = Annotated[Any, PlainValidator(values.texts), WithJsonSchema(_SCHEMA_STOP)]
Prediction = Annotated[
    str | None, PlainValidator(values.prediction), WithJsonSchema({"type": "object"})
]
Clean = Annotated[
    tuple[str, ...],
    PlainValidator(cleaning.steps),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "boolean"},
                {"type": "array", "items": {"enum": list(STEPS)}},
            ]
        }
    ),
]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # no effect: streams are not padded


class GenerateParameters(Parameters):
    """What chat and raw completion have in common."""

    model: Annotated[str, Field(min_length=1)]
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    n: Annotated[int, Field(ge=1)] = 1
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    stop: Stop = ()
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: LogitBias = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    # Beyond OpenAI's, by the names that other servers use.
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    ignore_eos: bool = False
    # Everloop's own.
    clean: Clean = ()
    early_exit: Annotated[float, Field(gt=0, lt=1)] | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options.include_usage)

    def check(self, settings: Settings) -> None:
        _check_most("n", self.n, settings.max_n, "max_n")
        if len(self.stop) > settings.max_stop:
            raise explain.too_many("stop", settings.max_stop, len(self.stop), "max_stop")


class ChatParameters(GenerateParameters):
    """POST /v1/chat/completions."""

    tolerated: ClassVar[Mapping[str, Tolerated]] = COMMON | CHAT_ONLY

    messages: Messages
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    prediction: Prediction = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest(
                "Invalid 'top_logprobs': it needs 'logprobs' to be true.", param="top_logprobs"
            )
        if None not in (self.max_tokens, self.max_completion_tokens) and (
            self.max_tokens != self.max_completion_tokens
        ):
            raise InvalidRequest(
                "'max_tokens' and 'max_completion_tokens' mean the same, but are different: give "
                "only the latter.",
                param="max_tokens",
            )
        return self

    @property
    def conversation(self) -> tuple[Message, ...]:
        turns: tuple[Message, ...] = self.messages
        return turns

    @property
    def limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def check(self, settings: Settings) -> None:
        super().check(settings)
        if len(self.conversation) > settings.max_messages:
            raise explain.too_many(
                "messages", settings.max_messages, len(self.conversation), "max_messages"
            )


class CompletionParameters(GenerateParameters):
    """POST /v1/completions."""

    tolerated: ClassVar[Mapping[str, Tolerated]] = COMMON

    prompt: Prompts
    suffix: str | None = None
    max_tokens: Annotated[int, Field(ge=0)] = 16
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool = False
    best_of: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.best_of is not None and self.best_of < self.n:
            raise InvalidRequest(
                f"Invalid 'best_of': it must be at least n, which is {self.n}, but got "
                f"{self.best_of} instead.",
                param="best_of",
            )
        if self.best_of is not None and self.best_of > self.n and self.stream:
            raise InvalidRequest(
                "Invalid 'best_of': the best answers are known only at the end, so they can't be "
                "streamed. Leave out 'stream' or 'best_of'.",
                param="best_of",
            )
        if self.suffix is not None and self.echo:
            raise InvalidRequest("'suffix' and 'echo' exclude each other.", param="suffix")
        return self

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        checked: tuple[Prompt, ...] = self.prompt
        return checked

    def check(self, settings: Settings) -> None:
        super().check(settings)
        if self.best_of is not None:
            _check_most("best_of", self.best_of, settings.max_n, "max_n")
        if len(self.prompts) > settings.max_prompts:
            raise explain.too_many("prompt", settings.max_prompts, len(self.prompts), "max_prompts")
        answers, room = len(self.prompts) * (self.best_of or self.n), settings.max_queue
        if answers > room + settings.max_running:  # a 429 would be repeated for ever
            raise InvalidRequest(
                f"This call asks for {answers} answers at once, but only {settings.max_running} "
                f"can run (max_running) and {room} wait (max_queue). Send fewer prompts a call.",
                param="prompt",
            )


class EditParameters(Parameters):
    """POST /v1/edits."""

    tolerated: ClassVar[Mapping[str, Tolerated]] = {
        **COMMON,
        "clean": Tolerated("a text that is to be edited stays as it was written", (False,)),
    }

    model: Annotated[str, Field(min_length=1)]
    instruction: Annotated[str, Field(min_length=1)]
    input: str = ""
    n: Annotated[int, Field(ge=1)] = 1
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0

    def check(self, settings: Settings) -> None:
        _check_most("n", self.n, settings.max_n, "max_n")


class EmbeddingParameters(Parameters):
    """POST /v1/embeddings."""

    tolerated: ClassVar[Mapping[str, Tolerated]] = {
        **COMMON,
        "dimensions": Tolerated("vectors have the size that the model has", ()),
    }

    model: Annotated[str, Field(min_length=1)]
    input: Texts
    encoding_format: Literal["float", "base64"] = "float"

    @property
    def texts(self) -> tuple[str, ...]:
        checked: tuple[str, ...] = self.input
        return checked


def _check_most(name: str, value: int, most: int, setting: str) -> None:
    if value > most:
        raise explain.out_of_bounds(name, value, "less_than_equal", f"{most} ({setting})")

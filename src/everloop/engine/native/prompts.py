"""Checks a request completely and turns its prompt into token ids, without torch."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from everloop.engine.interface import EarlyExit, GenerateRequest, Message, Prompt, Sampling
from everloop.errors import ContextLengthExceeded, InvalidRequest
from everloop.model.config import ModelConfig
from everloop.model.early_exit import EarlyExits, Point
from everloop.model.template import ChatTemplate
from everloop.model.tokenizer import Tokenizer

LONG_TEXT = 4096
"""Characters above which text is encoded on another thread."""

MAX_LOGPROBS = 100


class Prompts:
    """One model's tokenizer and template, with its limits."""

    def __init__(
        self, directory: Path, text_dir: Path | None = None, *, adapted: bool = False
    ) -> None:
        """Config from `directory`, tokenizer and template from `text_dir` (None: from there).
        `adapted`: an adapter makes another model of it."""
        text_dir = text_dir or directory
        self.config = ModelConfig.load(directory)
        self.tokenizer = Tokenizer.load(text_dir)
        self.tokenizer.encode("")  # the first request shan't wait for what this makes
        self.context_length = self.config.max_position_embeddings
        settings = _generation_config(directory)
        eos = {*self.config.eos_token_ids, *self.tokenizer.eos_ids, *_eos(settings)}
        self.eos = tuple(sorted(eos))
        self.sampling = _advised(settings)
        # Early exits were measured on the model as it is.
        self._exits = None if adapted else EarlyExits.load(directory, self.config, gates=False)
        self._template: ChatTemplate | None = None
        self._why_no_template: InvalidRequest | None = None
        try:
            self._template = ChatTemplate.load(text_dir, self.tokenizer)
        except InvalidRequest as error:
            self._why_no_template = error
        self._longest = max(
            (len(self.tokenizer.token_bytes(i)) for i in range(self.tokenizer.vocab_size)),
            default=1,
        )

    async def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt; raises InvalidRequest, and ContextLengthExceeded for a text so
        long that it needn't be encoded to know."""
        if isinstance(prompt, str):
            return await self._text(prompt, "prompt")
        if prompt and isinstance(prompt[0], int):
            return self._ids(prompt)
        if not prompt:
            return self._start()
        return await self._messages(cast("tuple[Message, ...]", prompt))

    async def encode_text(self, text: str, param: str) -> list[int]:
        """Token ids of text that continues something: nothing is put before it."""
        self._check_length(text, param)
        return await _long(len(text), self.tokenizer.encode, text)

    async def request(self, request: GenerateRequest) -> tuple[list[int], int]:
        """Prompt ids and the number of tokens that may be written, everything checked."""
        check_sampling(request.sampling, self.config.vocab_size)
        if any(not stop for stop in request.stop):
            raise InvalidRequest("A stop string is empty. Remove it.", param="stop")
        for stop in request.stop:
            _check_text(stop, "stop")
        if request.logprobs is not None and not 0 <= request.logprobs <= MAX_LOGPROBS:
            raise InvalidRequest(
                f"logprobs is {request.logprobs}; give 0 to {MAX_LOGPROBS}.", param="logprobs"
            )
        if request.suffix is None:
            ids = await self.encode(request.prompt)
        else:
            ids = await self._fill(request)
        room = self.context_length - len(ids)
        wanted = request.max_tokens
        if wanted is not None and wanted < 0:
            raise InvalidRequest(
                f"max_tokens is {wanted}; it can't be negative.", param="max_tokens"
            )
        if room < (1 if wanted is None else wanted):
            raise self.too_long(len(ids), wanted, request.prompt)
        return ids, room if wanted is None else wanted

    async def prediction(self, text: str) -> list[int]:
        """Token ids of what is expected to be written."""
        _check_text(text, "prediction")
        if len(text) > self.context_length * self._longest:
            raise InvalidRequest(
                f"The prediction has at least {-(-len(text) // self._longest)} tokens, but the "
                f"model can't write more than {self.context_length}. Shorten it.",
                param="prediction",
            )
        return await _long(len(text), self.tokenizer.encode, text)

    def exit_point(self, agreement: float) -> Point:
        """Where to leave so that so many tokens are the whole model's. Raises InvalidRequest."""
        if not 0.0 < agreement < 1.0:
            raise InvalidRequest(
                f"early_exit is {agreement:g}; give a share of tokens above 0 and below 1, such as "
                "0.97, or leave it out for exact answers.",
                param="early_exit",
            )
        if self._exits is None:
            raise InvalidRequest(
                "This model can't leave layers out: it was not trained for it (--exit-loss). Leave "
                "'early_exit' out.",
                param="early_exit",
                code="unsupported_parameter",
            )
        return self._exits.choose(agreement)

    def early_exit(self, point: Point) -> EarlyExit:
        """What a request is told that leaves there."""
        layers = self.config.num_hidden_layers
        return EarlyExit(agreement=point.agreement, layer=point.layer, layers=layers)

    def too_long(
        self, tokens: int, wanted: int | None, prompt: Prompt, *, least: bool = False
    ) -> ContextLengthExceeded:
        """The error for a prompt (plus output) that doesn't fit."""
        param = "prompt" if isinstance(prompt, str) or not _is_messages(prompt) else "messages"
        found = f"{'at least ' if least else ''}{tokens} tokens"
        if wanted:
            found += f", and {wanted} more were asked for: {tokens + wanted} in all"
        return ContextLengthExceeded(
            f"This model's maximum context length is {self.context_length} tokens. However, your "
            f"{param} resulted in {found}. Shorten the {param}"
            f"{' or ask for fewer tokens' if wanted else ''}.",
            param=param,
        )

    def _start(self) -> list[int]:
        """What an empty prompt is: the token that stands before every text."""
        first = self.tokenizer.bos_id
        if first is None:
            first = self.tokenizer.token_to_id("<|endoftext|>")
        if first is None and self.eos:
            first = min(self.eos)
        if first is None:
            raise InvalidRequest("The prompt is empty. Give at least one token.", param="prompt")
        return [first]

    async def _text(self, text: str, param: str) -> list[int]:
        self._check_length(text, param)
        with_bos = self.tokenizer.bos_id is not None
        ids = await _long(len(text), self._encode, text, with_bos)
        return ids or self._start()

    def _encode(self, text: str, with_bos: bool) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=with_bos)

    def _ids(self, prompt: tuple[int, ...]) -> list[int]:
        size = self.config.vocab_size
        for i in prompt:
            if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < size:
                raise InvalidRequest(
                    f"The prompt has the token id {i!r}; ids of this model are 0 to {size - 1}.",
                    param="prompt",
                )
        return list(prompt)

    async def _messages(self, messages: tuple[Message, ...]) -> list[int]:
        if self._template is None:
            assert self._why_no_template is not None
            raise self._why_no_template
        for message in messages:
            _check_text(message["content"], "messages")
        size = sum(len(m["content"]) for m in messages)
        if size > self.context_length * self._longest:
            least = -(-size // self._longest)
            raise self.too_long(least, None, messages, least=True)
        mappings = cast("tuple[Mapping[str, Any], ...]", messages)
        return await _long(size, self._template.encode, mappings)

    async def _fill(self, request: GenerateRequest) -> list[int]:
        marks = self.tokenizer.fill_in_middle
        if marks is None:
            raise InvalidRequest(
                "This model can't fill in the middle: leave `suffix` out.", param="suffix"
            )
        if request.echo:
            raise InvalidRequest("`echo` and `suffix` don't go together.", param="echo")
        if not isinstance(request.prompt, str):
            if _is_messages(request.prompt):
                raise InvalidRequest("`suffix` needs a prompt, not messages.", param="suffix")
            before = self._ids(cast("tuple[int, ...]", request.prompt))
        else:
            before = await self.encode_text(request.prompt, "prompt")
        after = await self.encode_text(request.suffix or "", "suffix")
        return [marks.prefix, *before, marks.suffix, *after, marks.middle]

    def _check_length(self, text: str, param: str) -> None:
        _check_text(text, param)
        if len(text) > self.context_length * self._longest:
            raise self.too_long(-(-len(text) // self._longest), None, text, least=True)


def text_folder(directory: Path, adapter: Path | None) -> Path:
    """Where tokenizer and template are: with the adapter if it brought its own."""
    return adapter if adapter is not None and (adapter / "tokenizer.json").is_file() else directory


def check_sampling(sampling: Sampling, vocab_size: int) -> None:
    """Raises InvalidRequest for values that have no meaning; the wire may allow fewer."""
    _between(sampling.temperature, 0.0, 1e6, "temperature")
    _between(sampling.top_p, 0.0, 1.0, "top_p")
    _between(sampling.min_p, 0.0, 1.0, "min_p")
    _between(sampling.presence_penalty, -1e3, 1e3, "presence_penalty")
    _between(sampling.frequency_penalty, -1e3, 1e3, "frequency_penalty")
    _between(sampling.repetition_penalty, 0.01, 100.0, "repetition_penalty")
    if sampling.top_k < 0:
        raise InvalidRequest(
            f"top_k is {sampling.top_k}; give 0 (off) or a positive number.", param="top_k"
        )
    for token, bias in sampling.logit_bias.items():
        if not 0 <= token < vocab_size:
            raise InvalidRequest(
                f"logit_bias names the token {token}; ids of this model are 0 to {vocab_size - 1}.",
                param="logit_bias",
            )
        _between(bias, -1e6, 1e6, "logit_bias")


def _between(value: float, low: float, high: float, name: str) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidRequest(f"{name} is {value}; give {low:g} to {high:g}.", param=name)


def _check_text(text: str, param: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{param} has a lone surrogate at character {error.start}: it is not valid Unicode.",
            param=param,
        ) from None


def _is_messages(prompt: str | Sequence[Any]) -> bool:
    return not isinstance(prompt, str) and bool(prompt) and not isinstance(prompt[0], int)


async def _long(size: int, function: Any, *arguments: Any) -> list[int]:
    """Runs an encoder, beside the event loop if the text is long."""
    if size <= LONG_TEXT:
        return cast("list[int]", function(*arguments))
    return cast("list[int]", await asyncio.to_thread(function, *arguments))


def _generation_config(directory: Path) -> dict[str, Any]:
    """generation_config.json, or nothing where it is missing or broken."""
    try:
        value = json.loads((directory / "generation_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _eos(settings: dict[str, Any]) -> tuple[int, ...]:
    """generation_config.json may name more end tokens than config.json."""
    found = settings.get("eos_token_id")
    ids = found if isinstance(found, list) else [found]
    return tuple(i for i in ids if isinstance(i, int))


def _advised(settings: dict[str, Any]) -> Sampling:
    """How the model's makers say that it should be sampled; OpenAI's defaults where they don't."""
    if settings.get("do_sample") is False:
        return Sampling()
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    given = {n: settings[n] for n in names if isinstance(settings.get(n), int | float)}
    if "top_k" in given:
        given["top_k"] = int(given["top_k"])
    return Sampling(**given)

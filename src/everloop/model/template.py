"""Messages to prompt: the one template object that training and serving share.

Templates are the model's own Jinja (tokenizer_config.json or chat_template.jinja), run by
minijinja with a fuel limit, so that a hostile template ends with an error, not with the machine.
A user's text never becomes a special token, whatever it spells.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import minijinja

from everloop.errors import InvalidRequest
from everloop.model.tokenizer import END_OF_TEXT, TURN_END, TURN_START, Tokenizer

CHATML = (
    "{%- for message in messages -%}"
    f"{{{{- '{TURN_START}' + message.role + '\\n' + message.content + '{TURN_END}' + '\\n' -}}}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    f"{{{{- '{TURN_START}assistant\\n' -}}}}"
    "{%- endif -%}"
)
"""The template of our own models (ChatML, no default system prompt)."""

FUEL = 2_000_000
"""Template instructions before it is stopped: thousands of messages fit, a bomb doesn't."""

# Where a message spells a special token, these noncharacters stand around its number while the
# template runs; the text around them is encoded as usual.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"


class ChatTemplate:
    """Renders messages for one model. Safe to share between threads."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        self.source = source
        self.tokenizer = tokenizer
        # transformers' own tag marks what the assistant said; it prints nothing by itself.
        plain = re.sub(r"\{%([-+]?)\s*generation\s*([-+]?)%\}", r"{%\1 if true \2%}", source)
        plain = re.sub(r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}", r"{%\1 endif \2%}", plain)
        self._environment = minijinja.Environment(
            trim_blocks=True, lstrip_blocks=True, fuel=FUEL, templates={"chat": plain}
        )
        self._environment.add_global("raise_exception", _raise)
        self._environment.add_global("strftime_now", _today)
        self._environment.add_filter("tojson", _tojson)
        spellings = (*tokenizer.special_spellings, _OPEN, _CLOSE)
        self._spellings = re.compile("|".join(re.escape(s) for s in spellings))
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        self._tokens = {n: _spelling(tokenizer.config.get(n)) for n in names}

    @classmethod
    def load(cls, directory: Path, tokenizer: Tokenizer | None = None) -> ChatTemplate:
        """The model's template: chat_template.jinja, or tokenizer_config.json's field."""
        tokenizer = tokenizer or Tokenizer.load(directory)
        path = directory / "chat_template.jinja"
        if path.is_file():
            return cls(path.read_text(encoding="utf-8"), tokenizer)
        source = tokenizer.config.get("chat_template")
        if isinstance(source, list):  # several named templates: the default one
            named = {t.get("name"): t.get("template") for t in source if isinstance(t, dict)}
            source = named.get("default")
        if not isinstance(source, str):
            raise InvalidRequest(
                f"{directory} has no chat template: it is a base model. Use /v1/completions, or "
                "add chat_template.jinja.",
                param="messages",
            )
        return cls(source, tokenizer)

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> str:
        """The prompt as text, special tokens spelled out."""
        try:
            return self._environment.render_template(
                "chat",
                messages=[dict(m) for m in messages],
                add_generation_prompt=add_generation_prompt,
                **self._tokens,
            )
        except minijinja.TemplateError as error:
            raise InvalidRequest(
                f"The chat template refused these messages: {error.message}", param="messages"
            ) from None

    def encode(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> list[int]:
        """The prompt as ids: special tokens only where the template put them."""
        guarded, literals = self._guard(messages)
        text = self.render(guarded, add_generation_prompt=add_generation_prompt)
        return self._encode_guarded(text, literals)

    def encode_example(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
        """A training example: ids, and a mask with 1 on what the assistant says, its end mark
        included. Every prefix up to an answer is exactly what serving would have sent."""
        guarded, literals = self._guard(messages)
        ids: list[int] = []
        mask: list[int] = []
        rendered = ""
        for i, message in enumerate(guarded):
            if message["role"] != "assistant":
                continue
            prompt = self.render(guarded[:i], add_generation_prompt=True)
            whole = self.render(guarded[: i + 1], add_generation_prompt=False)
            if not prompt.startswith(rendered) or not whole.startswith(prompt):
                raise InvalidRequest(
                    "The chat template rewrites earlier turns, so answers can't be told from "
                    "prompts in training. Split the conversation into one example an answer."
                )
            asked = self._encode_guarded(prompt[len(rendered) :], literals)
            answer = whole[len(prompt) :]
            end = answer.rstrip("\n")
            said = self._encode_guarded(end, literals)
            after = self._encode_guarded(answer[len(end) :], literals)
            ids += asked + said + after
            mask += [0] * len(asked) + [1] * len(said) + [0] * len(after)
            rendered = whole
        return ids, mask

    def _guard(
        self, messages: Sequence[Mapping[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """Messages in which special-token spellings are replaced by numbered marks."""
        literals: list[str] = []

        def mark(match: re.Match[str]) -> str:
            literals.append(match[0])
            return f"{_OPEN}{len(literals) - 1}{_CLOSE}"

        guarded = []
        for message in messages:
            # Templates compare roles, so they can't be rewritten.
            if self._spellings.search(str(message.get("role"))):
                raise InvalidRequest("A message's role spells a special token.", param="messages")
            guarded.append(
                {
                    k: self._spellings.sub(mark, v) if isinstance(v, str) else v
                    for k, v in message.items()
                }
            )
        return guarded, literals

    def _encode_guarded(self, text: str, literals: list[str]) -> list[int]:
        if not literals:
            return self.tokenizer.encode_special(text)
        ids: list[int] = []
        for piece in text.split(_OPEN):
            number, mark, rest = piece.partition(_CLOSE)
            if mark:
                ids += self.tokenizer.encode(literals[int(number)])
                ids += self.tokenizer.encode_special(rest)
            else:
                ids += self.tokenizer.encode_special(piece)
        return ids


def tokenizer_config(context_length: int) -> dict[str, Any]:
    """tokenizer_config.json of our own models, as transformers reads it."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "bos_token": None,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
    }


def _spelling(token: object) -> str:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _raise(message: str) -> None:
    raise minijinja.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """As transformers has it: neither Chinese nor HTML's characters are escaped."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _today(pattern: str) -> str:
    return datetime.datetime.now(tz=datetime.timezone.utc).strftime(pattern)  # noqa: UP017


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """generation_config.json of our own models: what ends an answer, and sampling that suits a
    small model (at OpenAI's temperature 1 it rambles). Servers use it where a request is silent."""
    return {
        "eos_token_id": [*tokenizer.eos_ids],
        "pad_token_id": tokenizer.token_to_id(END_OF_TEXT),
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
        "repetition_penalty": 1.1,
    }


def write_template(directory: Path, context_length: int) -> None:
    """Writes our chat template and the settings that belong to it beside a tokenizer.json."""
    (directory / "chat_template.jinja").write_text(CHATML, encoding="utf-8")
    _write_json(directory / "tokenizer_config.json", tokenizer_config(context_length))
    settings = generation_config(Tokenizer.load(directory))
    _write_json(directory / "generation_config.json", settings)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

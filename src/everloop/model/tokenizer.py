"""Text to token ids and back: a thin face on a standard tokenizer.json.

Imports no torch, so that the HTTP process can count and check prompts. Text that merely spells a
special token (`<|im_end|>` typed by a user) stays text; only templates make special tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders

from everloop.errors import InvalidRequest

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"


@dataclass(frozen=True, slots=True, kw_only=True)
class FillInMiddle:
    """Ids that mark prefix, suffix and middle (Bavarian et al. 2022, arXiv 2207.14255)."""

    prefix: int
    suffix: int
    middle: int


class Tokenizer:
    """A loaded tokenizer. Safe to share between threads."""

    def __init__(self, backend: Backend, config: dict[str, Any] | None = None) -> None:
        self.backend = backend
        self.config = config or {}
        # Two settings of one tokenizer: special tokens as themselves, and as text (`_plain`).
        self._special = backend
        self._special.encode_special_tokens = False

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Reads tokenizer.json, and tokenizer_config.json where there is one."""
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise InvalidRequest(
                f"{path} is missing. Models with only tokenizer.model need a tokenizer.json: "
                "save the tokenizer once with transformers' save_pretrained."
            )
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # the backend raises bare Exception
            raise InvalidRequest(f"{path} can't be read as a tokenizer: {error}.") from None
        backend.no_truncation()
        backend.no_padding()
        config: dict[str, Any] = {}
        config_path = directory / "tokenizer_config.json"
        if config_path.is_file():
            try:
                config = json.loads(config_path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise InvalidRequest(f"{config_path} is not valid JSON: {error}.") from None
            if not isinstance(config, dict):
                raise InvalidRequest(f"{config_path} is not a JSON object.")
        return cls(backend, config)

    @cached_property
    def _plain(self) -> Backend:
        """Made when text is first encoded: a copy of 150,000 tokens takes many megabytes, and a
        worker, which only spells tokens, needs none."""
        plain = Backend.from_str(self.backend.to_str())
        plain.encode_special_tokens = True
        return plain

    @property
    def vocab_size(self) -> int:
        """Ids in use, added tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Ids of plain text; `add_special_tokens` adds what the tokenizer prepends (BOS)."""
        return self._plain.encode(check(text), add_special_tokens=add_special_tokens).ids

    def encode_special(self, text: str) -> list[int]:
        """Ids of text in which special tokens are meant (a rendered template)."""
        return self._special.encode(check(text), add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` of many texts on all cores."""
        return [e.ids for e in self._plain.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int], *, skip_special_tokens: bool = False) -> str:
        """Text of ids; incomplete characters become U+FFFD."""
        return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def token_to_id(self, token: str) -> int | None:
        """Id of one token by its exact spelling."""
        return self.backend.token_to_id(token)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that are marks, not text."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset(i for i, token in added.items() if token.special)

    @cached_property
    def special_spellings(self) -> tuple[str, ...]:
        """Spellings of the special tokens, longest first."""
        added = self.backend.get_added_tokens_decoder()
        return tuple(sorted((t.content for t in added.values() if t.special), key=len)[::-1])

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end an answer, by the names that the known model families use."""
        names = [_content(self.config.get("eos_token")), END_OF_TEXT, TURN_END]
        names += ["<|eot_id|>", "<|end_of_text|>", "</s>"]
        ids = [self.backend.token_to_id(n) for n in names if n]
        return tuple(dict.fromkeys(i for i in ids if i is not None))

    @cached_property
    def bos_id(self) -> int | None:
        """The id put before a raw prompt, or None where the tokenizer has none."""
        name = _content(self.config.get("bos_token"))
        if not name or self.config.get("add_bos_token") is False:
            return None
        added = self.backend.encode("", add_special_tokens=True).ids
        found: int | None = self.backend.token_to_id(name)
        return found if found is not None and found in added else None

    @cached_property
    def fill_in_middle(self) -> FillInMiddle | None:
        """The fill-in-the-middle marks, or None where the model has none."""
        prefix, suffix, middle = map(self.token_to_id, (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE))
        if prefix is None or suffix is None or middle is None:
            return None
        return FillInMiddle(prefix=prefix, suffix=suffix, middle=middle)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one token stands for; a special token's spelling."""
        return self._bytes_of[token_id] if 0 <= token_id < len(self._bytes_of) else b""

    @cached_property
    def _bytes_of(self) -> list[bytes]:
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        table = [b""] * (max(vocabulary.values()) + 1)
        added = self.backend.get_added_tokens_decoder()
        byte_level = _is_byte_level(self.backend)
        for token, i in vocabulary.items():
            if i in added:
                table[i] = added[i].content.encode()
            elif byte_level:
                table[i] = bytes(_BYTE_OF[c] for c in token if c in _BYTE_OF)
            elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                table[i] = bytes([int(token[3:5], 16)])
            else:
                table[i] = token.replace("▁", " ").encode()
        return table


def check(text: str) -> str:
    """Lone surrogates are no text: they'd fail deep inside the encoder."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"The text has a lone surrogate at character {error.start}: it is not valid Unicode."
        ) from None
    return text


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte, as byte-level BPE spells its tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in printable}
    others = [b for b in range(256) if b not in table]
    table.update({b: chr(256 + i) for i, b in enumerate(others)})
    return table


_BYTE_OF = {c: b for b, c in byte_alphabet().items()}


def _is_byte_level(backend: Backend) -> bool:
    return isinstance(backend.decoder, decoders.ByteLevel) or '"ByteLevel"' in json.dumps(
        json.loads(backend.to_str()).get("decoder")
    )


def _content(token: object) -> str | None:
    """tokenizer_config.json spells a token as a string or as {"content": …}."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None

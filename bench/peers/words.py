"""A tokenizer whose every token is visible text, and nearly all are words.

A word is a space and one to four letters, reached by merges, so that any row of words is the text's
only spelling: text, ids and text again are the same. Predicted outputs can then be given as text,
and each token shows as soon as it is there. There are as many merges as a real tokenizer has, and
loading them takes as long.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from everloop.model.template import write_template
from everloop.model.tokenizer import byte_alphabet
from everloop.model.train_tokenizer import SPECIAL_TOKENS, SPLIT

SIGNS = sorted(byte_alphabet()[code] for code in range(ord(" "), ord("~") + 1))
"""Printable ASCII, as byte-level BPE spells it. Other bytes alone are no text."""

FIRST_WORD = len(SPECIAL_TOKENS) + len(SIGNS)
"""Smaller ids are marks and signs."""


def words() -> Iterator[str]:
    """a, b, …, z, aa, ab, …: each word's beginning comes before it."""
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_lowercase, repeat=length):
            yield "".join(letters)


def write_tokenizer(directory: Path, vocab_size: int) -> None:
    """Writes tokenizer.json, its config and a chat template for `vocab_size` ids."""
    space = byte_alphabet()[ord(" ")]
    tokens = [*SPECIAL_TOKENS, *SIGNS]
    merges = []
    for word in itertools.islice(words(), vocab_size - len(tokens)):
        merges.append((space + word[:-1], word[-1]))
        tokens.append(space + word)
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(list(SPECIAL_TOKENS))  # not as special ones, which are never shown
    directory.mkdir(parents=True, exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
    write_template(directory, 4096)

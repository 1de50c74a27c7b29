"""A tokenizer whose tokens are words, for models whose weights are random.

Every token but the bytes and marks is a space and one to four letters, and each is reached by
merges, so that any row of such tokens is the text's only spelling: text, ids and text again are
the same. Predicted outputs can then be given as text, and each token shows as soon as it is there.
It has as many merges as a real tokenizer, and takes as long to load.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from everloop.model.template import write_template
from everloop.model.tokenizer import byte_alphabet
from everloop.model.train_tokenizer import MINIMUM_VOCABULARY, SPECIAL_TOKENS, SPLIT

FIRST_WORD = MINIMUM_VOCABULARY
"""Smaller ids are marks and bytes."""


def words() -> Iterator[str]:
    """a, b, …, z, aa, ab, …: each word's beginning comes before it."""
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_lowercase, repeat=length):
            yield "".join(letters)


def write_tokenizer(directory: Path, vocab_size: int) -> None:
    """Writes tokenizer.json, its config and a chat template for `vocab_size` ids."""
    space = byte_alphabet()[ord(" ")]
    tokens = [*SPECIAL_TOKENS, *sorted(byte_alphabet().values())]
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
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    directory.mkdir(parents=True, exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
    write_template(directory, 4096)

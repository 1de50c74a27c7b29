"""Training a byte-level BPE for our own models.

Digits stand alone (so that numbers are read position by position), words and punctuation are split
as Qwen2 does, every byte has a token: any text round-trips. No normalization: what goes in comes
out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from everloop.errors import InvalidRequest
from everloop.model.template import write_template
from everloop.model.tokenizer import (
    END_OF_TEXT,
    FIM_MIDDLE,
    FIM_PREFIX,
    FIM_SUFFIX,
    TURN_END,
    TURN_START,
)

SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END, FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE)

# Qwen2's split pattern: contractions, a word with one leading non-letter, one digit, punctuation
# with a leading space, line breaks, spaces. llama.cpp knows it as `qwen2`.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

MINIMUM_VOCABULARY = 256 + len(SPECIAL_TOKENS)


def train_tokenizer(
    texts: Iterator[str],
    directory: Path,
    *,
    vocab_size: int,
    context_length: int = 4096,
    progress: bool = False,
) -> None:
    """Learns merges from `texts` and writes tokenizer.json, tokenizer_config.json and
    chat_template.jinja to `directory`. Deterministic for equal texts in equal order."""
    if vocab_size < MINIMUM_VOCABULARY:
        raise InvalidRequest(
            f"vocab_size={vocab_size} is too small: 256 bytes and {len(SPECIAL_TOKENS)} special "
            f"tokens need {MINIMUM_VOCABULARY}.",
            param="vocab_size",
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        # Chinese has no spaces: without a limit, whole clauses of a text seen often become tokens.
        max_token_length=24,
        show_progress=progress,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        found = tokenizer.get_vocab_size()
        raise InvalidRequest(
            f"The text only yields {found} tokens, fewer than vocab_size={vocab_size}. Give more "
            f"text or set --vocab-size {found} or less.",
            param="vocab_size",
        )
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / "tokenizer.json.tmp"
    tokenizer.save(str(temporary))
    temporary.replace(directory / "tokenizer.json")
    write_template(directory, context_length)

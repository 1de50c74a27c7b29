"""Documents to token ids, target masks and pieces that fit a training sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.data.cut import Cutter
from everloop.data.documents import Document
from everloop.data.split import mix, share
from everloop.data.tokenize import BatchEncoder
from everloop.errors import DataError, InvalidRequest
from everloop.model.template import ChatTemplate
from everloop.model.tokenizer import END_OF_TEXT, Tokenizer

Ids = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.uint8]
_FIM_SALT = 16


class Encoder:
    """Encodes for one tokenizer and its chat template. A text is cut into pieces of at most
    `max_tokens`, the last of which ends with <|endoftext|>; an example is never cut."""

    def __init__(self, directory: Path, max_tokens: int) -> None:
        self.directory = directory
        self.max_tokens = max_tokens
        self.tokenizer = Tokenizer.load(directory)
        self.encode_batch = BatchEncoder(self.tokenizer)
        self.cutter = Cutter(self.tokenizer)
        end = self.tokenizer.token_to_id(END_OF_TEXT)
        if end is None and not self.tokenizer.eos_ids:
            raise InvalidRequest(
                f"The tokenizer in {directory} has no {END_OF_TEXT} or other end token. Train one "
                "with: everloop tokenizer train",
                param="tokenizer",
            )
        self.end = end if end is not None else self.tokenizer.eos_ids[0]

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template beside the tokenizer."""
        return ChatTemplate.load(self.directory, self.tokenizer)

    def texts(self, documents: list[Document]) -> Iterator[tuple[Document, list[Ids]]]:
        """Each document with its pieces."""
        encoded = self.encode_batch([d.text for d in documents])
        for document, ids in zip(documents, encoded, strict=True):
            yield document, self.cutter.cut(np.append(ids, np.uint32(self.end)), self.max_tokens)

    def examples(
        self, documents: list[Document], refuse: Callable[[DataError], None]
    ) -> Iterator[tuple[Document, Ids, Mask]]:
        """Each example with its ids and targets; too long or without a target is refused."""
        for document in documents:
            try:
                ids, mask = self.example(document)
            except DataError as error:
                refuse(error)
                continue
            yield document, np.array(ids), np.array(mask, np.uint8)

    def example(self, document: Document) -> tuple[list[int], list[int]]:
        """Ids, and 1 where a token is to be learnt."""
        example = document.example
        assert example is not None
        if example.is_raw:
            prompt = self.tokenizer.encode(example.prompt)
            answer = [*self.tokenizer.encode(example.completion), self.end]
            ids, mask = prompt + answer, [0] * len(prompt) + [1] * len(answer)
        else:
            try:
                ids, mask = self.template.encode_example(example.messages)
            except InvalidRequest as error:
                raise document.error(error.message, "") from None
        if len(ids) > self.max_tokens:
            raise document.error(
                f"the example has {len(ids)} tokens, more than {self.max_tokens}.",
                "Shorten it, split it, or raise --max-tokens.",
            )
        if 1 not in mask[1:]:
            raise document.error("the example has no target token.", "Give it an answer.")
        return ids, mask

    def fill_in_middle(self, pieces: list[tuple[Ids, int]]) -> list[Ids | None]:
        """Pieces (each with its hash) as prefix, suffix, middle; None where that isn't possible.

        The two cuts are uniform over characters (Bavarian et al. 2022, arXiv 2207.14255, "PSM").
        """
        marks = self.tokenizer.fill_in_middle
        if marks is None:
            raise InvalidRequest(
                f"fim_rate: the tokenizer in {self.directory} has no fill-in-the-middle tokens. "
                "Set fim_rate = 0.",
                param="fim_rate",
            )
        thirds: list[str] = []
        for ids, value in pieces:
            text = self.tokenizer.decode([i for i in ids.tolist() if i != self.end])
            cuts = sorted(int(share(mix(value, s)) * (len(text) + 1)) for s in (1, 2))
            thirds += [text[: cuts[0]], text[cuts[1] :], text[cuts[0] : cuts[1]]]
        encoded = self.encode_batch(thirds)
        rewritten: list[Ids | None] = []
        for i in range(len(pieces)):
            prefix, suffix, middle = encoded[3 * i : 3 * i + 3]
            parts = [marks.prefix, *prefix, marks.suffix, *suffix, marks.middle, *middle, self.end]
            broken = any("\ufffd" in text for text in thirds[3 * i : 3 * i + 3])
            fits = len(parts) <= self.max_tokens and len(middle) and not broken
            rewritten.append(np.array(parts) if fits else None)
        return rewritten


def chosen_for_fim(document: Document, piece: int, rate: float) -> int | None:
    """The piece's own hash if it is to be rewritten, else None. Held-out text never is."""
    if not rate or document.split:
        return None
    value = mix(document.value, _FIM_SALT + piece)
    return value if share(value) < rate else None

"""Held-out bits per byte: comparable between tokenizers, unlike loss per token."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from everloop.data.pack import PackedDataset
from everloop.model.tokenizer import Tokenizer
from everloop.model.transformer import Transformer
from everloop.train import loss
from everloop.train.loader import IGNORE, sequential


class Subset:
    """The documents of a dataset that belong to one language."""

    def __init__(self, data: PackedDataset, documents: np.ndarray) -> None:
        self._data, self._documents = data, documents
        self.lengths = data.lengths[documents]
        self.source_of = data.source_of[documents]

    def document(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """As PackedDataset.document."""
        return self._data.document(int(self._documents[index]))


def bits_per_byte(
    data: PackedDataset,
    tokenizer: Tokenizer,
    *,
    sequence_length: int,
    rows: int,
    device: torch.device,
    limit: int = 64,
) -> Callable[[Transformer], dict[str, float]]:
    """A function from a model to {"bpb_zh": …, "bpb_en": …} over at most `limit` rows a language
    (sources without a language count as "other"), special tokens left out."""
    sizes = np.array([len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)])
    sizes[list(tokenizer.special_ids)] = 0
    languages = [s.get("lang") or "other" for s in data.manifest["sources"]]
    parts: dict[str, Subset] = {}
    generator = np.random.default_rng(0)
    for language in sorted(set(languages)):
        sources = [i for i, name in enumerate(languages) if name == language]
        documents = np.flatnonzero(np.isin(data.source_of, sources) & (data.lengths > 1))
        if len(documents):
            parts[language] = Subset(data, generator.permutation(documents))

    def measure(model: Transformer) -> dict[str, float]:
        values = {}
        for language, part in parts.items():
            nats = total = 0.0
            for batch in sequential(part, sequence_length=sequence_length, rows=rows, limit=limit):
                inputs = loss.tensors(batch, device)
                _, each = loss.nats(model, inputs)
                size = torch.from_numpy(sizes[batch.targets[batch.targets != IGNORE]])
                counted = size > 0
                nats += float(each.float().cpu()[counted].sum())
                total += float(size.sum())
            values[f"bpb_{language}"] = nats / max(total, 1.0) / math.log(2)
        return values

    return measure

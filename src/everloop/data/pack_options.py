"""What the bytes of packed data depend on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from everloop.data.files import sha256_file
from everloop.data.shards import FORMAT_VERSION
from everloop.data.source import Source
from everloop.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOptions:
    """What shapes the packed bytes, beside sources and tokenizer."""

    val_fraction: float = 0.005
    """Share of documents held out, by hash."""
    max_tokens: int = 2048
    """Longer documents are cut at paragraph borders."""
    shard_tokens: int = 1 << 26
    seed: int = 0
    """Another seed draws another validation split and subset."""

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise InvalidRequest(
                f"val_fraction is {self.val_fraction}: at least 0, below 1.", param="val_fraction"
            )
        if self.max_tokens < 16:
            raise InvalidRequest(
                f"max_tokens is {self.max_tokens}: at least 16.", param="max_tokens"
            )
        if self.shard_tokens < self.max_tokens:
            raise InvalidRequest(
                f"shard_tokens is {self.shard_tokens}: at least max_tokens ({self.max_tokens}).",
                param="shard_tokens",
            )


def identity(
    sources: tuple[Source, ...], tokenizer_dir: Path, options: PackOptions
) -> dict[str, Any]:
    """Everything that the packed bytes depend on; no machine's path is part of it."""
    described = []
    for source in sources:
        entry = asdict(source)
        if not source.noise:
            del entry["noise"]  # what was packed before there was noise stays the same
        entry["files"] = [
            {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in source.files
        ]
        described.append(entry)
    return {
        "format": FORMAT_VERSION,
        "sources": described,
        "tokenizer_sha256": sha256_file(tokenizer_dir / "tokenizer.json"),
        "options": asdict(options),
    }

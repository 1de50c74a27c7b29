"""How much each source of packed data is read and counts, and the table that says so.

Answers differ in length: a label is a few tokens after a long text, a translation as long as its
source. With every target alike, tasks with short answers are read at full cost and hardly count.
`balance` moves each source's share of the loss from its share of the targets (0) to its share of
the tokens read (1): a target of source s counts (tokens_s / targets_s)^balance, scaled so that a
target counts 1 in the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

from everloop.data.pack import PackedDataset


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One source of the training split."""

    name: str
    weight: float
    """Times that it is read in one pass."""
    documents: int
    tokens: int
    targets: int
    counts: float
    """What one of its targets counts in the loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """All sources, in the order of the packed data."""

    sources: tuple[Source, ...]

    @property
    def tokens(self) -> float:
        """Tokens of one pass."""
        return sum(s.weight * s.tokens for s in self.sources)

    def shares(self) -> list[float]:
        """Each source's part of the loss' weight."""
        parts = [s.weight * s.targets * s.counts for s in self.sources]
        return [part / (sum(parts) or 1.0) for part in parts]

    def show(self, tokens: int) -> str:
        """A table for a run of `tokens` tokens, sources that count most first."""
        passes = tokens / max(self.tokens, 1.0)
        rows = [
            ("source", "examples", "tokens", "targets", "passes", "of the tokens", "of the loss")
        ]
        for source, share in sorted(zip(self.sources, self.shares(), strict=True), key=_most):
            read = source.weight * source.tokens / max(self.tokens, 1.0)
            rows.append(
                (
                    source.name,
                    f"{source.documents:,}",
                    f"{source.tokens:,}",
                    f"{source.targets:,}",
                    f"{passes * source.weight:.2f}",
                    f"{read:.1%}",
                    f"{share:.1%}",
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        )


def _most(pair: tuple[Source, float]) -> float:
    return -pair[1]


def mixture(data: PackedDataset, balance: float) -> Mixture:
    """The sources of `data` with what their targets count at this `balance`, 0…1."""
    found = data.manifest["sources"]

    def number(source: dict[str, dict[str, int]], key: str) -> int:
        return int(source[key].get(data.split, 0))

    ratios = [
        (number(s, "tokens") / number(s, "targets")) ** balance if number(s, "targets") else 1.0
        for s in found
    ]
    targets = [float(s.get("weight", 1.0)) * number(s, "targets") for s in found]
    weighted = sum(t * r for t, r in zip(targets, ratios, strict=True))
    scale = sum(targets) / weighted if weighted else 1.0
    return Mixture(
        sources=tuple(
            Source(
                name=str(s["name"]),
                weight=float(s.get("weight", 1.0)),
                documents=number(s, "documents"),
                tokens=number(s, "tokens"),
                targets=number(s, "targets"),
                counts=ratio * scale,
            )
            for s, ratio in zip(found, ratios, strict=True)
        )
    )

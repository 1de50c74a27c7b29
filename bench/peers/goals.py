"""The goals, and whether a run's results meet them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Series = Mapping[str, Sequence[float]]
"""Values of a measure, by series."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A bound on a ratio of two series of one measure, or on one series itself."""

    measure: str
    of: str = "everloop"
    over: str | None = None
    """None: the number of `of` itself."""
    at_least: float | None = None
    at_most: float | None = None
    faster: bool = False
    """Times as fast: with seconds, the other way round."""
    text: str
    text_zh: str
    percent: bool = False

    def value(self, series: Series) -> float | None:
        """The number to compare with the bound; None where a side is missing."""
        own = middle(series, self.of)
        if own is None:
            return None
        if self.over is None:
            return own
        other = middle(series, self.over)
        if other is None or not own or not other:
            return None
        return other / own if self.faster else own / other

    def met(self, series: Series) -> bool | None:
        """Whether the goal is met; None where it can't be told. What is drafted must also be the
        same."""
        value = self.value(series)
        if value is None:
            return None
        same = series.get(f"{self.of} (same tokens)", ())
        enough = self.at_least is None or value >= self.at_least
        little = self.at_most is None or value <= self.at_most
        return enough and little and all(same)

    @property
    def bound(self) -> str:
        sign, bound = ("≥", self.at_least) if self.at_most is None else ("≤", self.at_most)
        assert bound is not None
        return f"{sign} {bound:.0%}" if self.percent else f"{sign} {bound:g}"


def middle(series: Series, name: str) -> float | None:
    """The median of a series."""
    values = series.get(name)
    return statistics.median(values) if values else None


def _faster(measure: str, than: str, bound: float, *, seconds: bool = False) -> Goal:
    return Goal(
        measure=measure,
        over=than,
        at_least=bound,
        faster=seconds,
        text=f"× {than}",
        text_zh=f"× {than}",
    )


LLAMA, OPENVINO = "llama.cpp", "openvino"

GOALS = (
    _faster("read-0.6b", LLAMA, 3.0),
    _faster("read-0.6b", OPENVINO, 1.7),
    _faster("write-0.6b", LLAMA, 1.2),
    Goal(
        measure="write-0.6b",
        over="limit",
        at_least=0.88,
        percent=True,
        text="of the memory limit",
        text_zh="内存极限",
    ),
    _faster("write-4bit-0.6b", LLAMA, 1.3),
    _faster("streams-0.6b", LLAMA, 3.5),
    _faster("write-small", LLAMA, 1.3),
    _faster("streams-small", LLAMA, 2.5),
    _faster("read-small", LLAMA, 2.5),
    *(
        goal
        for model in ("0.6b", "small")
        for goal in (
            _faster(f"questions-{model}", LLAMA, 3.0, seconds=True),
            _faster(f"questions-{model}", f"{LLAMA} (no cache)", 8.0, seconds=True),
            Goal(
                measure=f"correct-{model}",
                over="everloop (plain)",
                at_least=2.5,
                faster=True,
                text="× plain decoding, same tokens",
                text_zh="× 普通解码，词元相同",
            ),
            Goal(
                measure=f"undraftable-{model}",
                over="everloop (plain)",
                at_least=0.97,
                faster=True,
                text="× no drafting, same tokens",
                text_zh="× 不起草，词元相同",
            ),
            Goal(
                measure=f"gap-{model}",
                over="everloop (median before)",
                at_most=3.0,
                text="× the median before",
                text_zh="× 此前的中位数",
            ),
        )
    ),
    *(
        goal
        for lang in ("en", "zh")
        for goal in (
            Goal(
                measure=f"perplexity-{lang}",
                over="everloop (unquantized)",
                at_most=1.005,
                text="× unquantized, 8 bit",
                text_zh="× 未量化，8 位",
            ),
            Goal(
                measure=f"perplexity-{lang}",
                of="everloop (4 bit)",
                over="everloop (unquantized)",
                at_most=1.04,
                text="× unquantized, 4 bit",
                text_zh="× 未量化，4 位",
            ),
            Goal(
                measure=f"perplexity-{lang}",
                of="everloop (4 bit)",
                over="llama.cpp (4 bit)",
                at_most=1.0,
                text="× llama.cpp's Q4_0",
                text_zh="× llama.cpp 的 Q4_0",
            ),
        )
    ),
    Goal(
        measure="memory-0.6b",
        over="file",
        at_most=1.15,
        text="× the packed file",
        text_zh="× 打包文件",
    ),
    Goal(measure="load-small", at_most=1.0, text="s", text_zh="秒"),
    Goal(measure="load-0.6b", at_most=4.0, text="s", text_zh="秒"),
)

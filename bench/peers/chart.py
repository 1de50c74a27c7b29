"""The chart: tokens a second and waiting time, as streams and prompts grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .goals import middle

COLOURS = {"everloop": "#d1495b", "llama.cpp": "#30638e", "openvino": "#8a8d91"}
NAMES = {"everloop": "Everloop", "llama.cpp": "llama.cpp", "openvino": "OpenVINO GenAI"}
MODELS = {"0.6b": "0.6B shape, 8 bit", "small": "default model, 8 bit"}

Points = dict[str, list[tuple[int, float]]]
"""(x, tokens a second) by side."""


def points(results: Mapping[str, Any], kind: str, model: str) -> Points:
    """A curve's points: kind is `streams` or `prompt`."""
    prefix, found = f"growth-{kind}-{model}@", {}
    for name, series in results["values"].items():
        if name.startswith(prefix):
            for side in COLOURS:
                value = middle(series, side)
                if value is not None:
                    found.setdefault(side, []).append((int(name.removeprefix(prefix)), value))
    return {side: sorted(values) for side, values in found.items()}


def draw(results: Mapping[str, Any], path: Path) -> bool:
    """Writes the chart; False if the results have no curves."""
    models = [m for m in MODELS if points(results, "streams", m) or points(results, "prompt", m)]
    if not models:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(models), 4, figsize=(15, 3.6 * len(models)), squeeze=False, layout="constrained"
    )
    for row, model in zip(axes, models, strict=True):
        streams, prompts = points(results, "streams", model), points(results, "prompt", model)
        _curve(row[0], streams, "streams", "tokens/s in all", MODELS[model])
        step = {s: [(n, 1000 * n / v) for n, v in values] for s, values in streams.items()}
        _curve(row[1], step, "streams", "ms a token of one stream")
        _curve(row[2], prompts, "prompt tokens", "tokens/s read")
        wait = {s: [(n, n / v) for n, v in values] for s, values in prompts.items()}
        _curve(row[3], wait, "prompt tokens", "seconds to the first token")
    about = results["machine"]
    figure.suptitle(f"{about['processor']}, {about['cores']} cores, {results['when'][:10]}")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return True


def _curve(axis: Any, sides: Points, x: str, y: str, title: str = "") -> None:
    ticks: Sequence[int] = sorted({n for values in sides.values() for n, _ in values})
    for side, values in sides.items():
        axis.plot(*zip(*values, strict=True), "o-", color=COLOURS[side], label=NAMES[side], ms=4)
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.minorticks_off()
    axis.set_ylim(bottom=0)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.set_title(title, loc="left", fontsize="medium")
    axis.grid(alpha=0.25)
    for edge in ("top", "right"):
        axis.spines[edge].set_visible(False)
    if sides:
        axis.legend(frameon=False, fontsize="small")

"""The loss curve of a run as a picture."""

from __future__ import annotations

import json
from pathlib import Path


def plot_losses(run: Path) -> Path | None:
    """Draws `RUN/loss.png` from metrics.jsonl; None where matplotlib (the `train` extra) or a
    second point is missing."""
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return None
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [(r["step"], r["loss"]) for r in rows if "loss" in r]
    checks = [r for r in rows if "validation" in r]
    if len(steps) < 2:
        return None
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(*zip(*steps, strict=True), color="0.75", linewidth=0.8, label="training loss")
    smooth, average = [], steps[0][1]
    for step, loss in steps:
        average = 0.95 * average + 0.05 * loss
        smooth.append((step, average))
    axes.plot(*zip(*smooth, strict=True), color="C0", label="smoothed")
    axes.set(xlabel="step", ylabel="nats per token", title=run.name)
    axes.set_ylim(top=min(steps[0][1], smooth[len(smooth) // 20][1] * 1.3) + 0.2)
    handles, labels = axes.get_legend_handles_labels()
    if checks:
        bits = axes.twinx()
        bits.set_ylabel("held-out bits per byte")
        for i, name in enumerate(sorted(checks[-1]["validation"])):
            points = [(r["step"], r["validation"][name]) for r in checks if name in r["validation"]]
            bits.plot(*zip(*points, strict=True), "o-", color=f"C{i + 1}", markersize=3, label=name)
        more = bits.get_legend_handles_labels()
        handles, labels = handles + more[0], labels + more[1]
    axes.legend(handles, labels)
    target = run / "loss.png"
    temporary = run / "loss.tmp.png"
    figure.savefig(temporary, dpi=120)
    plt.close(figure)
    temporary.replace(target)
    return target

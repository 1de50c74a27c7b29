"""What a run shows while it works: a live line on a terminal, plain lines elsewhere, and
metrics.jsonl for everything that reads later."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

PLAIN_EVERY = 10.0
"""Seconds between lines where the output is no terminal."""


class Progress:
    """Reports steps to stderr and to `RUN/metrics.jsonl`; does nothing where not `shown`."""

    def __init__(self, run: Path, *, steps: int, first_step: int, shown: bool = True) -> None:
        self.path = run / "metrics.jsonl"
        self.steps, self.first_step, self.shown = steps, first_step, shown
        # The last ones in the file, written by this run's earlier processes.
        self.loss, self.validation, self.checked = math.nan, dict[str, float](), -1
        if shown:
            self._drop_after(first_step)
            self._file = self.path.open("a", encoding="utf-8")
        self._began = self._last = time.monotonic()
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("step", total=steps, completed=first_step, numbers="")
            self._bar.start()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self.shown:
            self._file.close()

    def row(self, **values: Any) -> None:
        """Appends one line to metrics.jsonl, written before the next step begins."""
        if not self.shown:
            return
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def step(
        self,
        step: int,
        *,
        loss: float,
        tokens_per_s: float,
        flops_per_s: float,
        rate: float,
        **others: float,
    ) -> None:
        """After each step (counted from 1); `others` are only written down."""
        self.row(
            step=step,
            loss=loss,
            tokens_per_s=round(tokens_per_s, 1),
            gflops_per_s=round(flops_per_s / 1e9, 2),
            rate=round(rate, 6),
            **others,
        )
        if not self.shown:
            return
        now = time.monotonic()
        done = step - self.first_step
        eta = (now - self._began) / max(1, done) * (self.steps - step)
        numbers = (
            f"loss {loss:.4f}  {tokens_per_s:,.0f} tok/s  {flops_per_s / 1e9:,.1f} GFLOP/s  "
            f"ETA {clock(eta)}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=numbers)
        elif now - self._last >= PLAIN_EVERY or step in (self.first_step + 1, self.steps):
            self._last = now
            print(f"step {step}/{self.steps}  {numbers}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """One line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        elif self.shown:
            print(text, file=sys.stderr, flush=True)

    def _drop_after(self, step: int) -> None:
        """Rows of steps that a killed run did after its last checkpoint are done again."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").split("\n"):
            try:
                row = json.loads(line)
                if row["step"] > step:
                    continue
            except (ValueError, KeyError, TypeError):
                continue  # the torn last line of a killed process
            kept.append(line + "\n")
            self.loss = row.get("loss", self.loss)
            if "validation" in row:
                self.validation, self.checked = row["validation"], row["step"]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        temporary.replace(self.path)


def clock(seconds: float) -> str:
    """`1:02:03` or `4:05`."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    text = f"{rest // 60}:{rest % 60:02d}"
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else text

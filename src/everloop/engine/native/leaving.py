"""Early exit in PyTorch: the same tokens as the compiled kernels' way, without its speed.

All layers are computed for all rows; a row that has left gets its state back after each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from everloop.engine.native.backend import Rows
from everloop.model.early_exit import Gate


class Leaving:
    """Follows one batch through the layers."""

    def __init__(
        self,
        batch: Sequence[Rows],
        gates: Mapping[int, Gate],
        eps: float,
    ) -> None:
        self._gates, self._eps = gates, eps
        self._asked: dict[int, list[tuple[int, float]]] = {}  # by layer: row and threshold
        self._left: list[int] = []
        self._states = torch.empty(0)
        at = 0
        for rows in batch:
            if rows.exit is not None:
                first = max(rows.exit.start - rows.start, 0)
                self._asked.setdefault(rows.exit.layer, []).extend(
                    (at + t, rows.exit.threshold) for t in range(first, len(rows.ids))
                )
            at += len(rows.ids)
        self._rows = at if any(rows.exit is not None for rows in batch) else 0

    def after(self, layers: int, x: Tensor) -> None:
        """Takes the states (rows, C) after so many layers, and changes them in place."""
        if self._left:
            x[self._left] = self._states
        asked = self._asked.get(layers)
        if asked:
            gate = self._gates[layers]
            states = x[[row for row, _ in asked]].float()
            states *= (states.pow(2).mean(-1, keepdim=True) + self._eps).rsqrt()
            into, offsets, out = (
                torch.from_numpy(part).to(x.device) for part in (gate.into, gate.offsets, gate.out)
            )
            scores = (F.relu(states @ into.T + offsets) @ out).tolist()
            self._left += [
                row for (row, least), score in zip(asked, scores, strict=True) if score >= least
            ]
            self._states = x[self._left]

    @property
    def asked(self) -> bool:
        """Whether any row may leave."""
        return bool(self._asked)

    def left(self) -> list[bool]:
        """Of every row whether it has left; empty where nobody might."""
        gone = set(self._left)
        return [row in gone for row in range(self._rows)]

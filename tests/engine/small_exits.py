"""Early exits of the small model: random gates, so that about half of its tokens leave."""

from __future__ import annotations

import numpy as np

from everloop.model.early_exit import EarlyExits, Gate, Point

LAYERS, HIDDEN, INNER = 3, 48, 8


def gate(seed: int) -> Gate:
    rng = np.random.default_rng(seed)
    return Gate(
        into=rng.standard_normal((INNER, HIDDEN)).astype("f4"),
        offsets=rng.standard_normal(INNER).astype("f4"),
        out=rng.standard_normal(INNER).astype("f4"),
    )


EXITS = EarlyExits(
    layers=LAYERS,
    tokens=1000,
    gates={1: gate(1), 2: gate(2)},
    points=(
        Point(layer=2, threshold=1e9, exited=0.001, agreement=0.999),
        Point(layer=2, threshold=0.0, exited=0.5, agreement=0.97),
        Point(layer=1, threshold=-1e9, exited=1.0, agreement=0.5),
    ),
)

"""Mistakes as people and machines make them, on purpose: one seeded module that augments training
and measures robustness.

`noisy(text, family, severity, seed)` depends on its arguments alone. Families in HELD_OUT never
reach training: how a model fares on them shows whether it learnt robustness or the noise.
"""

from everloop.data.noise.families import FAMILIES, HELD_OUT, TRAINING, families_for
from everloop.data.noise.make import SEVERITIES, TOUCHED, noisy, variants

__all__ = [
    "FAMILIES",
    "HELD_OUT",
    "SEVERITIES",
    "TOUCHED",
    "TRAINING",
    "families_for",
    "noisy",
    "variants",
]

"""What early_exit.json says, and what is refused of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everloop.errors import DataError, InvalidRequest
from everloop.model.early_exit import FILE, EarlyExits, Point, frontier
from tests.engine.conftest import small_config
from tests.engine.small_exits import EXITS

CONFIG = small_config(330, (0,))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert EarlyExits.load(tmp_path, CONFIG) is None
    (tmp_path / FILE).write_text(EXITS.to_json(), encoding="utf-8")
    found = EarlyExits.load(tmp_path, CONFIG)
    assert found is not None
    assert (found.layers, found.tokens, found.points) == (3, 1000, EXITS.points)
    for layer, gate in EXITS.gates.items():
        for name in ("into", "offsets", "out"):
            assert np.array_equal(getattr(found.gates[layer], name), getattr(gate, name))


def edit(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda whole: whole.__setitem__(key, value)


@pytest.mark.parametrize(
    "damage",
    [
        edit("layers", 4),
        edit("points", []),
        edit("points", [{"layer": 2}]),
        edit("points", [{"layer": 3, "threshold": 0, "exited": 0, "agreement": 1}]),
        edit("points", [{"layer": 2, "threshold": float("nan"), "exited": 0, "agreement": 1}]),
        edit("points", 7),
        edit("gates", {}),
        edit("gates", {"3": {}}),
        lambda whole: whole["gates"]["1"].__setitem__("out", ""),
        lambda whole: whole["gates"]["1"].__setitem__("into", "AAAA"),
        lambda whole: whole["gates"]["1"].__setitem__("offsets", "no base64!"),
        lambda whole: whole["gates"]["2"].__setitem__("out", "AADAfw==" * 8),
        lambda whole: whole.pop("tokens"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[dict[str, Any]], None]) -> None:
    whole = json.loads(EXITS.to_json())
    damage(whole)
    (tmp_path / FILE).write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(DataError, match=r"early_exit\.json: doesn't fit this model .*Remove it"):
        EarlyExits.load(tmp_path, CONFIG)


def test_the_most_is_left_out_that_agrees_enough() -> None:
    assert EXITS.choose(0.999) == EXITS.points[0]
    assert EXITS.choose(0.98) == EXITS.points[0]
    assert EXITS.choose(0.97) == EXITS.points[1]
    assert EXITS.choose(0.51) == EXITS.points[1]
    assert EXITS.choose(0.01) == EXITS.points[2]
    with pytest.raises(InvalidRequest, match=r"0\.999 at most"):
        EXITS.choose(0.9991)


def test_points_that_another_beats_are_dropped() -> None:
    def point(layer: int, exited: float, agreement: float) -> Point:
        return Point(layer=layer, threshold=0.0, exited=exited, agreement=agreement)

    good = [point(3, 0.2, 0.99), point(2, 0.2, 0.98), point(3, 0.9, 0.95), point(2, 0.8, 0.9)]
    beaten = [point(3, 0.1, 0.99), point(3, 0.0, 1.0), point(2, 0.44, 0.95), point(2, 0.1, 0.97)]
    assert frontier([*beaten, *good], 4) == tuple(good)

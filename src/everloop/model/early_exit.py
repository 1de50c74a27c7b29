"""Where a model's tokens may leave its layers early, and how often it then says something else.

`early_exit.json` lies beside config.json in the directory of a model that was trained for it (other
programs ignore it): a small network a layer that judges a state, and points measured on held-out
text, each a layer and a threshold with the share of tokens that leave there and the share of all
tokens that are what the whole model would say.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from everloop.errors import DataError, InvalidRequest
from everloop.model.config import ModelConfig

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float32]

FILE = "early_exit.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Judges the state after a layer, scaled to a mean square of 1: out · relu(into · state +
    offsets) grows with the chance that the head says there what it would say after the last
    layer."""

    into: Floats  # (inner, hidden)
    offsets: Floats  # (inner,)
    out: Floats  # (inner,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What happens where tokens judged at least `threshold` leave after `layer` layers."""

    layer: int
    threshold: float
    exited: float  # share of the tokens
    agreement: float  # share of all tokens that are the whole model's


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyExits:
    """A model's gates by layer, and its measured points, the most agreeing first. Each point has
    more tokens leave than those before it."""

    layers: int  # of the whole model
    tokens: int  # measured on so many
    gates: Mapping[int, Gate]
    points: tuple[Point, ...]

    @classmethod
    def load(cls, directory: Path, config: ModelConfig, *, gates: bool = True) -> EarlyExits | None:
        """What the model's directory says; None if it says nothing. Without `gates` there are
        points only, and no NumPy is loaded. Raises DataError if the file is damaged or another
        model's."""
        path = directory / FILE
        if not path.is_file():
            return None
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            found = cls(
                layers=value["layers"],
                tokens=value["tokens"],
                gates={
                    int(k): _gate(v, config.hidden_size) for k, v in value["gates"].items() if gates
                },
                points=tuple(Point(**point) for point in value["points"]),
            )
            found._check(config, {int(k) for k in value["gates"]})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"doesn't fit this model ({error}).",
                path=str(path),
                repair="Remove it to serve the model without early exits.",
            ) from None
        return found

    def to_json(self) -> str:
        """The file's text."""
        gates = {
            layer: {name: _written(getattr(gate, name)) for name in ("into", "offsets", "out")}
            for layer, gate in self.gates.items()
        }
        points = [asdict(point) for point in self.points]
        value = {"layers": self.layers, "tokens": self.tokens, "points": points, "gates": gates}
        return json.dumps(value, indent=1) + "\n"

    def choose(self, agreement: float) -> Point:
        """The point with the fewest layers computed among those that agree so often. Raises
        InvalidRequest if there is none."""
        if agreement > self.points[0].agreement:
            most = math.floor(self.points[0].agreement * 1000) / 1000
            raise InvalidRequest(
                f"Invalid 'early_exit': this model agrees with itself at {most:g} at most when it "
                f"leaves layers out, but got {agreement:g} instead. Ask for less, or leave "
                "'early_exit' out for exact answers.",
                param="early_exit",
            )
        return [point for point in self.points if point.agreement >= agreement][-1]

    def _check(self, config: ModelConfig, gates: set[int]) -> None:
        if self.layers != config.num_hidden_layers:
            raise ValueError(f"it has {self.layers} layers")
        if not self.points or not all(0 < layer < self.layers for layer in gates):
            raise ValueError("it has no points, or gates at layers that aren't there")
        for point in self.points:
            numbers = (point.threshold, point.exited, point.agreement)
            if point.layer not in gates or not all(math.isfinite(n) for n in numbers):
                raise ValueError(f"its point {point} is broken")


def frontier(points: list[Point], layers: int) -> tuple[Point, ...]:
    """Those points that no other beats in both agreement and layers computed."""

    def saved(point: Point) -> float:
        return point.exited * (layers - point.layer)

    best: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.agreement, -saved(p))):
        if saved(point) > (saved(best[-1]) if best else 0.0):
            best.append(point)
    return tuple(best)


def _written(values: Floats) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _gate(value: Mapping[str, str], hidden: int) -> Gate:
    import numpy as np

    parts = {
        name: np.frombuffer(base64.b64decode(value[name], validate=True), "<f4").astype(np.float32)
        for name in ("into", "offsets", "out")
    }
    inner = len(parts["out"])
    if not all(np.isfinite(part).all() for part in parts.values()):
        raise ValueError("a gate's numbers are not finite")
    if not inner or len(parts["offsets"]) != inner:
        raise ValueError("a gate's parts differ in size")
    return Gate(
        into=parts["into"].reshape(inner, hidden), offsets=parts["offsets"], out=parts["out"]
    )

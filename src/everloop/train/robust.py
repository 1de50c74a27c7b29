"""Which loss terms make a tuned model stand up to noise, as `--robust neftune=5,rdrop=1` says.

    neftune=ALPHA   uniform noise on the embeddings (Jain et al. 2023, arXiv 2310.05914)
    dropout=P       dropout on embeddings and on what each block adds
    rdrop=ALPHA     two views must agree (R-Drop, Liang et al. 2021, arXiv 2106.14448)
    vat=WEIGHT      predictions stay the same under the worst small change of the embeddings
                    (virtual adversarial training, Miyato et al. 2017, arXiv 1605.07725),
                    one power iteration
    freelb=K        K steps uphill on the embeddings, learning at each (Zhu et al. 2020,
                    arXiv 1909.11764)
    eps=SHARE       size of the changes of vat and freelb, as a share of a document's embeddings

The model has no dropout of its own. R-Drop's two views come from `dropout`, 0.1 where it is not
given, or from NEFTune's noise where that is given and dropout is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from everloop.errors import InvalidRequest

VIEW_DROPOUT = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Robust:
    """The terms of one run; zero leaves a term out."""

    neftune: float = 0.0
    dropout: float = 0.0
    rdrop: float = 0.0
    vat: float = 0.0
    freelb: int = 0
    eps: float = 0.0
    """Filled in with 0.05 where vat or freelb need it."""

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) for f in fields(self))

    def __str__(self) -> str:
        """The canonical text, which `parse` reads."""
        return ",".join(
            f"{f.name}={getattr(self, f.name):g}" for f in fields(self) if getattr(self, f.name)
        )

    @property
    def cost(self) -> float:
        """Operations of a step, in those of a plain one: a forward pass counts 1, a backward pass
        2, and one that stops at the embeddings 1."""
        if self.freelb:
            return float(self.freelb)
        passes = 3 * (2 if self.rdrop else 1) + (5 if self.vat else 0)
        return passes / 3


def parse(text: str) -> Robust:
    """The terms that `text` names. Raises InvalidRequest, naming the term, for an unknown one, a
    value out of bounds, and combinations that mean nothing."""
    given: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = item.partition("=")
        if name not in _BOUNDS:
            raise _wrong(f"knows no term {name!r}: one of {', '.join(_BOUNDS)}")
        if name in given:
            raise _wrong(f"names {name} twice")
        low, high, what = _BOUNDS[name]
        try:
            number = float(value if equals else "nan")
        except ValueError:
            number = math.nan
        if not low <= number <= high or (name == "freelb" and number % 1):
            raise _wrong(f"has {item!r}: {name} takes {what}, such as {name}={_SUCH[name]}")
        given[name] = int(number) if name == "freelb" else number
    _check(given)
    if given.get("rdrop") and not given.get("neftune"):
        given.setdefault("dropout", VIEW_DROPOUT)
    if given.get("vat") or given.get("freelb"):
        given.setdefault("eps", 0.05)
    return Robust(**given)


_BOUNDS: dict[str, tuple[float, float, str]] = {
    "neftune": (0, 1000, "0 or more"),
    "dropout": (0, 0.9, "0 to 0.9"),
    "rdrop": (0, 1000, "0 or more"),
    "vat": (0, 1000, "0 or more"),
    "freelb": (0, 5, "steps, 1 to 5 (0: none)"),
    "eps": (1e-6, 1, "above 0, at most 1"),
}
_SUCH = {"neftune": 5, "dropout": 0.1, "rdrop": 1, "vat": 1, "freelb": 3, "eps": 0.05}


def _check(given: dict[str, Any]) -> None:
    for other in ("neftune", "rdrop", "vat"):
        if given.get("freelb") and given.get(other):
            raise _wrong(
                f"has both freelb and {other}: freelb learns from its own changed views only. "
                "Choose one of them"
            )
    if given.get("rdrop") and given.get("dropout") == 0 and not given.get("neftune"):
        raise _wrong(
            "has rdrop with dropout=0: both views would be the same. Leave dropout out, or add "
            "neftune"
        )
    if "eps" in given and not (given.get("vat") or given.get("freelb")):
        raise _wrong("has eps, which sizes the changes of vat or freelb. Add one, or leave it out")


def _wrong(message: str) -> InvalidRequest:
    return InvalidRequest(f"--robust {message}.", param="robust")

"""After training with an exit loss: when tokens may leave early, and what it costs.

One half of some held-out text teaches a gate for each exit layer to tell whether its token would be
the whole model's. On the other half every (layer, threshold) is tried as the engine does it: tokens
that leave keep their state as it is, and the layers above take keys and values from that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from everloop.data.pack import PackedDataset
from everloop.errors import InvalidRequest
from everloop.model.early_exit import EarlyExits, Gate, Point, frontier
from everloop.model.rope import rope_tables
from everloop.model.transformer import Transformer, attention_mask
from everloop.train import loss
from everloop.train.exits import exit_layers
from everloop.train.loader import IGNORE, sequential
from everloop.train.validation import Subset

INNER = 32
"""Units of a gate: a hundredth of a layer's work at the smallest widths."""

SHARES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)
"""Of the tokens, those that leave, in the points that are tried."""

_HEAD_ROWS = 2048


def require_held_out(data: PackedDataset) -> None:
    """Raises InvalidRequest where there is nothing to calibrate on."""
    if len(PackedDataset(data.directory, "validation")) < 2:
        raise InvalidRequest(
            f"--exit-loss calibrates its exits on held-out text, and {data.directory} has none: "
            "pack it with a larger --val-fraction.",
            param="exit_loss",
        )


@torch.no_grad()
def calibrate(
    model: Transformer, held_out: PackedDataset, *, sequence_length: int, rows: int, limit: int = 96
) -> EarlyExits:
    """Gates and points of a model, from about `limit` rows of text for either half."""
    documents = np.flatnonzero(held_out.lengths > 1)
    whole = documents[held_out.lengths[documents] <= sequence_length + 1]
    if held_out.manifest["masked"] and len(whole) > 1:  # half an example asks for nothing
        documents = whole
    documents = np.random.default_rng(0).permutation(documents)
    enough = held_out.lengths[documents].cumsum() <= 2 * limit * sequence_length
    documents = documents[: max(2, int(enough.sum()))]
    taught, measured = (
        [
            _Part.make(model, inputs)
            for inputs in _batches(model, held_out, half, sequence_length, rows)
        ]
        for half in (documents[::2], documents[1::2])
    )
    layers = model.config.num_hidden_layers
    gates: dict[int, Gate] = {}
    points: list[Point] = []
    tokens = sum(int(part.may.sum()) for part in measured)
    for layer in exit_layers(model.config):
        for part in (*taught, *measured):
            part.go_to(model, layer)
        gate = _teach(model, taught, seed=layer)
        # Taught on states with the final norm's weights, which a packed model may share out
        # otherwise: the gate takes them in.
        plain = {**gate, "into": gate["into"] * model.model.norm.weight}
        gates[layer] = Gate(**{k: v.float().cpu().numpy() for k, v in plain.items()})
        scores = [_score(gate, part.early) for part in measured]
        every = torch.cat(scores)
        for share in SHARES:
            threshold = float(every.quantile(1 - share))
            agreed = left = 0
            for part, score in zip(measured, scores, strict=True):
                leaves = score >= threshold
                agreed += int(part.agreeing(model, layer, leaves).sum())
                left += int(leaves.sum())
            points.append(
                Point(
                    layer=layer,
                    threshold=threshold,
                    exited=left / tokens,
                    agreement=agreed / tokens,
                )
            )
    return EarlyExits(layers=layers, tokens=tokens, gates=gates, points=frontier(points, layers))


@dataclass(slots=True, kw_only=True)
class _Part:
    """A batch: its state after some layers, and what its written tokens come to."""

    x: Tensor  # (B, T, C), not normed
    done: int  # layers
    rope: tuple[Tensor, Tensor]
    masks: dict[int | None, Tensor | None]
    may: Tensor  # (B, T): the token was written, and another is written after it
    said: Tensor  # (N,) by the whole model, after those
    early: Tensor  # (N, C) normed states after `done` layers
    agrees: Tensor  # (N,) whether the head says the same there

    @classmethod
    def make(cls, model: Transformer, inputs: dict[str, Tensor]) -> _Part:
        x = model.model.embed_tokens(inputs["ids_BT"])
        cos, sin = rope_tables(model.frequencies, inputs["positions_BT"])
        documents, config = inputs["documents_BT"], model.config
        windows = {config.window(i) for i in range(config.num_hidden_layers)}
        wanted = inputs["targets_BT"] != IGNORE
        may = wanted.clone()
        may[:, 0] = False
        may[:, 1:] &= wanted[:, :-1] & (documents[:, 1:] == documents[:, :-1])
        part = cls(
            x=x,
            done=0,
            rope=(cos[:, :, None], sin[:, :, None]),
            masks={w: attention_mask(x.shape[1], 0, w, documents, x.device) for w in windows},
            may=may,
            said=x.new_empty(0),
            early=x.new_empty(0),
            agrees=x.new_empty(0),
        )
        part.said = _said(model, model.model.norm(part.run(model, config.num_hidden_layers)[may]))
        return part

    def go_to(self, model: Transformer, layer: int) -> None:
        """Computes the state after `layer` layers."""
        self.x, self.done = self.run(model, layer), layer
        self.early = model.model.norm(self.x[self.may])
        self.agrees = _said(model, self.early) == self.said

    def run(self, model: Transformer, end: int, left: Tensor | None = None) -> Tensor:
        """The state after `end` layers; where `left` (B, T), it stays what it is now."""
        x = self.x
        for i in range(self.done, end):
            after, _ = model.model.layers[i](
                x, *self.rope, self.masks[model.config.window(i)], None
            )
            x = after if left is None else torch.where(left[..., None], x, after)
        return x

    def agreeing(self, model: Transformer, layer: int, leaves: Tensor) -> Tensor:
        """(N,) whether each token is the whole model's where those of `leaves` (N,) leave now."""
        left = torch.zeros_like(self.may)
        left[self.may] = leaves
        x = self.run(model, model.config.num_hidden_layers, left)
        agrees = self.agrees.clone()
        late = _said(model, model.model.norm(x[self.may & ~left]))
        agrees[~leaves] = late == self.said[~leaves]
        return agrees


def _batches(
    model: Transformer,
    data: PackedDataset,
    documents: np.ndarray,
    sequence_length: int,
    rows: int,
) -> Iterator[dict[str, Tensor]]:
    part = Subset(data, documents)
    for batch in sequential(part, sequence_length=sequence_length, rows=rows):
        yield loss.tensors(batch, model.frequencies.device)


def _said(model: Transformer, hidden: Tensor) -> Tensor:
    """The head's likeliest tokens (N,) for normed states (N, C)."""
    parts = [model.head(some).argmax(-1) for some in torch.split(hidden, _HEAD_ROWS)]
    return torch.cat(parts) if parts else hidden.new_empty(0, dtype=torch.long)


def _score(gate: dict[str, Tensor], states: Tensor) -> Tensor:
    hidden = F.relu(states.float() @ gate["into"].T + gate["offsets"])
    return hidden @ gate["out"]


def _teach(model: Transformer, parts: list[_Part], *, seed: int) -> dict[str, Tensor]:
    """A gate that tells from the state whether the head says here what it will say later."""
    states = torch.cat([part.early for part in parts]).float()
    agrees = torch.cat([part.agrees for part in parts]).float()
    generator = torch.Generator().manual_seed(seed)
    size = states.shape[1]
    scale = (states.pow(2).mean() * size).rsqrt().cpu()
    gate = {
        "into": (torch.randn(INNER, size, generator=generator) * scale).to(states.device),
        "offsets": torch.zeros(INNER, device=states.device),
        "out": (torch.randn(INNER, generator=generator) * INNER**-0.5).to(states.device),
    }
    with torch.enable_grad():
        parameters = [value.requires_grad_() for value in gate.values()]
        steps, batch = 600, min(1024, len(states))
        bias = torch.zeros((), device=states.device, requires_grad=True)
        optimizer = torch.optim.AdamW(
            [
                {"params": parameters[:1], "lr": 0.1 * float(scale)},
                {"params": [*parameters[1:], bias], "lr": 0.01},
            ],
            weight_decay=0.01,
        )
        for step in range(steps):
            for group in optimizer.param_groups:
                group.setdefault("peak", group["lr"])
                group["lr"] = group["peak"] * (1 - step / steps)
            chosen = torch.randint(len(states), (batch,), generator=generator).to(states.device)
            score = _score(gate, states[chosen]) + bias
            value = F.binary_cross_entropy_with_logits(score, agrees[chosen])
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return {name: value.detach() for name, value in gate.items()}

"""Moves size between layers and channels, so that rounding to a few bits loses less.

A channel that is far larger than its neighbours leaves these few of the 255 steps that a token's
inputs have. Where a channel is made by something linear (a norm's weight, a row of `up_proj` or
`v_proj`), it is divided there and multiplied in the columns that read it: the model computes the
same, and nothing is left to do when it runs (SmoothQuant, Xiao and others 2022, arXiv 2211.10438).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from everloop.model.transformer import Transformer

MOST = 64.0
"""Times that a channel may become larger or smaller."""

LARGEST = 1000.0
"""Of weights that are touched at all: 64 times as much is a number in any format."""

FLOOR = 1e-6
"""Mean square of a channel, next to the average, below which it counts as this much."""


@dataclass(slots=True)
class Folded:
    """Factors of parameters, by name, and the inputs as they are then."""

    rows: dict[str, Tensor] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)

    def apply(self, name: str, value: Tensor) -> Tensor:
        """A parameter as float32 with its factors."""
        value = value.float()
        if name in self.rows:
            rows = self.rows[name]
            value = value * (rows if value.dim() == 1 else rows[:, None])
        return value * self.columns[name] if name in self.columns else value


def equalize(model: Transformer, inputs: dict[str, Tensor]) -> Folded:
    """Factors for every pair of layers that allows it. `inputs` as `calibration.record` gives
    them. Layers with weights that are huge or no numbers stay as they are."""
    out = Folded(inputs=dict(inputs))
    state = model.state_dict()
    config = model.config

    def pair(source: str, makers: Iterable[str], readers: Iterable[str], heads: int = 1) -> None:
        """`makers` are parameters with a row for each channel. With `heads` > 1 each head of
        channels is read that often in turn."""
        names = [f"{r}.weight" for r in readers]
        x2 = inputs[source].pow(2).mean(0)
        w2 = torch.stack([state[n].float().pow(2).sum(0) for n in names]).sum(0)
        made = max(float(state[m].abs().max()) for m in makers if m in state)
        if not (made <= LARGEST and w2.max() <= LARGEST**2):
            return
        if heads > 1:
            x2, w2 = (t.view(-1, heads, config.head_dim).mean(1).flatten() for t in (x2, w2))
        s = wide = balance(x2, w2)
        if heads > 1:
            wide = s.view(-1, 1, config.head_dim).expand(-1, heads, -1).flatten()
        out.rows.update(dict.fromkeys(makers, 1 / s))
        out.columns.update(dict.fromkeys(names, wide))
        out.inputs[source] = inputs[source] / wide

    for i in range(config.num_hidden_layers):
        at = f"model.layers.{i}"
        attention, mlp = f"{at}.self_attn", f"{at}.mlp"
        qkv = [f"{attention}.{x}_proj" for x in "qkv"]
        pair(qkv[0], [f"{at}.input_layernorm.weight"], qkv)
        pair(
            f"{attention}.o_proj",
            [f"{qkv[2]}.weight", f"{qkv[2]}.bias"],
            [f"{attention}.o_proj"],
            config.num_attention_heads // config.num_key_value_heads,
        )
        both = [f"{mlp}.gate_proj", f"{mlp}.up_proj"]
        pair(both[0], [f"{at}.post_attention_layernorm.weight"], both)
        up = both[1]
        pair(f"{mlp}.down_proj", [f"{up}.weight", f"{up}.bias"], [f"{mlp}.down_proj"])
    if not config.tie_word_embeddings:  # a tied head's columns are the embedding's too
        pair("lm_head", ["model.norm.weight"], ["lm_head"])
    return out


def balance(x2: Tensor, w2: Tensor) -> Tensor:
    """Factors of channels after which inputs and weights vary alike, 1 in the geometric mean; all 1
    where there are none. Mean squares of inputs and squares of weights, by channel."""
    x2, w2 = (t.clamp_min(t.mean() * FLOOR) for t in (x2, w2))
    s = (x2 / w2).pow(0.25)
    s = (s / s.log().mean().exp()).clamp(1 / MOST, MOST)
    return s if torch.isfinite(s).all() else torch.ones_like(s)

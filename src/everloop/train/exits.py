"""Training a model whose earlier layers can speak: LayerSkip's loss (Elhoushi et al. 2024), one
layer a step."""

from __future__ import annotations

from torch import Tensor

from everloop.model.config import ModelConfig
from everloop.model.transformer import Transformer
from everloop.train import loss


def exit_layers(config: ModelConfig) -> tuple[int, ...]:
    """After how many layers tokens may learn to leave: half of them, and three quarters."""
    depth = config.num_hidden_layers
    return tuple(sorted({depth // 2, depth * 3 // 4} - {0, depth}))


def objective(
    model: Transformer, inputs: dict[str, Tensor], *, weight: float, step: int
) -> tuple[Tensor, Tensor]:
    """What to learn from, and the model's own part of it: sums in nats.

    The rest is `weight` times what the state after an earlier layer loses through the same norm
    and head. Which layer follows from the step alone, so that a resumed run, more processes and
    smaller parts of a batch learn the same.
    """
    if not weight:
        nats, _ = loss.nats(model, inputs)
        return nats, nats
    layers = exit_layers(model.config)
    early, late = model.hidden(
        inputs["ids_BT"],
        inputs["positions_BT"],
        inputs["documents_BT"],
        exit_layer=layers[step % len(layers)],
    )
    nats, _ = loss.head_nats(model, late, inputs)
    return nats + weight * loss.head_nats(model, early, inputs)[0], nats

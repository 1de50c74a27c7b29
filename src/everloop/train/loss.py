"""Cross-entropy on the positions that have a target."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from everloop.model.transformer import Transformer
from everloop.train.loader import IGNORE, Batch


def tensors(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """A batch as tensors on the device, named as Transformer.hidden and `nats` take them."""
    return {
        "ids_BT": torch.from_numpy(batch.ids).to(device, non_blocking=True),
        "positions_BT": torch.from_numpy(batch.positions).to(device, non_blocking=True),
        "documents_BT": torch.from_numpy(batch.documents).to(device, non_blocking=True),
        "targets_BT": torch.from_numpy(batch.targets).to(device, non_blocking=True),
    }


def nats(model: Transformer, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropy in nats (a float32 scalar), and each target's own (N,), in the
    order of `targets_BT[targets_BT != IGNORE]`.

    Only positions with a target go through the head: in tuning data most have none.
    """
    hidden = model.hidden(inputs["ids_BT"], inputs["positions_BT"], inputs["documents_BT"])
    targets = inputs["targets_BT"]
    wanted = targets != IGNORE
    logits_NV = model.head(hidden[wanted]).float()
    each = F.cross_entropy(logits_NV, targets[wanted], reduction="none")
    return each.sum(), each

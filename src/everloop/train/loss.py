"""Cross-entropy on the positions that have a target."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from everloop.model.transformer import Transformer
from everloop.train.loader import IGNORE, Batch

_LOGITS_CPU, _LOGITS_GPU = 1 << 22, 1 << 28
"""Logits in memory at once: as many as a CPU's caches hold, enough to keep a GPU busy."""

_STEP = 64
"""Targets come in multiples of this. Their number differs in every batch of tuning data, and
oneDNN keeps compiled code and buffers, megabytes, for every shape that it has seen."""


def tensors(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """A batch as tensors on the device, named as Transformer.hidden and `nats` take them."""
    return {
        "ids_BT": torch.from_numpy(batch.ids).to(device, non_blocking=True),
        "positions_BT": torch.from_numpy(batch.positions).to(device, non_blocking=True),
        "documents_BT": torch.from_numpy(batch.documents).to(device, non_blocking=True),
        "targets_BT": torch.from_numpy(batch.targets).to(device, non_blocking=True),
        "weights_BT": torch.from_numpy(batch.weights).to(device, non_blocking=True),
    }


def nats(model: Transformer, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weighted sum of the cross-entropy in nats (a float32 scalar), and each target's own (N,)
    without weight and gradient, in the order of `targets_BT[targets_BT != IGNORE]`.

    Only positions with a target go through the head: in tuning data most have none.
    """
    hidden = model.hidden(inputs["ids_BT"], inputs["positions_BT"], inputs["documents_BT"])
    return head_nats(model, hidden, inputs)


def head_nats(
    model: Transformer, hidden: Tensor, inputs: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """As `nats`, from states (B, T, C) after the final norm."""
    targets = inputs["targets_BT"]
    wanted = targets != IGNORE
    device = hidden.device.type
    dtype = hidden.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    total, each = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]
        hidden[wanted], model.lm_head.weight, targets[wanted], inputs["weights_BT"][wanted], dtype
    )
    return total, each


class _ChunkedLoss(torch.autograd.Function):
    """Head and cross-entropy by chunks of targets, forward and backward of each at once: the
    (N, V) logits, the largest thing in training a small model, never exist as a whole."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NC: Tensor,
        weight_VC: Tensor,
        targets_N: Tensor,
        counts_N: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        number = len(targets_N)
        padding = -number % _STEP
        hidden, weight = F.pad(hidden_NC.to(dtype), (0, 0, 0, padding)), weight_VC.to(dtype)
        targets_N = F.pad(targets_N, (0, padding))
        counts_N = F.pad(counts_N, (0, padding))  # zeros: padding gives no gradient
        wanted_hidden, wanted_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if wanted_hidden else None
        exact = torch.promote_types(dtype, torch.float32)
        grad_weight = torch.zeros_like(weight_VC, dtype=exact) if wanted_weight else None
        each = hidden.new_empty(len(targets_N), dtype=exact)
        at_once = _LOGITS_CPU if hidden.device.type == "cpu" else _LOGITS_GPU
        chunk = max(1, at_once // len(weight) // _STEP) * _STEP
        for start in range(0, len(targets_N), chunk):
            part = slice(start, start + chunk)
            targets = targets_N[part, None]
            logits = (hidden[part] @ weight.T).to(exact)
            logs = F.log_softmax(logits, dim=-1)
            each[part] = -logs.gather(1, targets)[:, 0]
            if grad_hidden is None and grad_weight is None:
                continue
            # The gradient on the logits: probabilities less one at the target.
            gradient = logs.exp_()
            gradient.scatter_add_(1, targets, gradient.new_full((1, 1), -1.0).expand_as(targets))
            gradient = gradient.mul_(counts_N[part, None]).to(dtype)
            if grad_hidden is not None:
                torch.mm(gradient, weight, out=grad_hidden[part])
            if grad_weight is not None:
                grad_weight += gradient.T @ hidden[part]
        total = (each * counts_N).sum()
        each = each[:number].clone()
        ctx.save_for_backward(None if grad_hidden is None else grad_hidden[:number], grad_weight)
        ctx.types = hidden_NC.dtype, weight_VC.dtype
        ctx.mark_non_differentiable(each)
        return total, each

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (scale, _), (for_hidden, for_weight) = gradients, ctx.saved_tensors
        if for_hidden is not None:
            for_hidden = (for_hidden * scale).to(ctx.types[0])
        if for_weight is not None:
            for_weight = (for_weight * scale).to(ctx.types[1])
        return for_hidden, for_weight, None, None, None

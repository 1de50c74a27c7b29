"""Muon: momentum, orthogonalized (Jordan et al. 2024), for the matrices inside the blocks.

Matrices of one shape are stacked and orthogonalized together, which matters on small models where
a step is many small products. Works on FSDP2's sharded parameters: the momentum is gathered, every
process orthogonalizes it, and each keeps its own shard.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

# Polar Express (Amsel et al. 2025, arXiv 2505.16932): the optimal polynomial of each of five
# Newton–Schulz steps, for singular values from 1e-3 on.
_OPTIMAL = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
# The paper's safety factor: rounding must not push a singular value out of the interval.
POLAR_EXPRESS = tuple((a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in _OPTIMAL)


def orthogonalize(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest semi-orthogonal matrix to each of `matrices` (N, rows, columns), roughly: all
    singular values come to about 1. Computed in `dtype`; bfloat16 is exact enough."""
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    result: Tensor = x.mT if tall else x
    return result.to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized, scaled by √max(1, rows/columns); decoupled weight decay
    only where it shrinks the weight (cautious, as in nanochat)."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dtype = dtype
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(list(parameters), defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update; gradients must be there for every parameter that is to move."""
        assert closure is None
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(tuple(parameter.shape), []).append(parameter)
            for parameters in shapes.values():
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        momentum = group["momentum"]
        directions = []
        for parameter in parameters:
            assert parameter.grad is not None
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].lerp_(parameter.grad, 1 - momentum)
            direction = parameter.grad.lerp(state["momentum"], momentum)
            whole = direction.full_tensor() if isinstance(direction, DTensor) else direction
            directions.append(whole)
        updates = orthogonalize(torch.stack(directions), self.dtype)
        rows, columns = updates.shape[-2:]
        scale = max(1.0, rows / columns) ** 0.5
        for parameter, update in zip(parameters, updates, strict=True):
            if isinstance(parameter, DTensor):
                update = distribute_tensor(
                    update.contiguous(), parameter.device_mesh, parameter.placements
                )
            if group["weight_decay"]:
                keep = (update * parameter) >= 0
                parameter.sub_(parameter * keep, alpha=group["lr"] * group["weight_decay"])
            parameter.sub_(update, alpha=group["lr"] * scale)

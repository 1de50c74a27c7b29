"""Which parameter learns how: Muon for the blocks' matrices, AdamW for everything else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from everloop.train.muon import Muon
from everloop.train.plan import Plan


class Optimizer:
    """Muon and AdamW stepped together under one schedule. State and update are float32 always;
    `bf16` only lets Muon orthogonalize in bfloat16, a tenth of a small model's step."""

    def __init__(self, model: nn.Module, plan: Plan, *, bf16: bool = False) -> None:
        self.plan = plan
        groups = split(model)
        self.names = {id(p): n for n, p in model.named_parameters()}
        adamw = [
            {"params": groups["embedding"], "peak": plan.embedding_lr},
            {"params": groups["head"], "peak": plan.head_lr},
            {"params": groups["scalar"], "peak": plan.scalar_lr},
        ]
        self.parts: list[torch.optim.Optimizer] = []
        if groups["matrix"]:
            muon = Muon(
                groups["matrix"],
                lr=plan.matrix_lr,
                weight_decay=plan.weight_decay,
                dtype=torch.bfloat16 if bf16 else torch.float32,
            )
            muon.param_groups[0]["peak"] = plan.matrix_lr
            self.parts.append(muon)
        adamw = [g for g in adamw if g["params"]]
        if adamw:
            # Small β2 and no decay: nanochat's settings for tables that few tokens touch a step.
            self.parts.append(
                torch.optim.AdamW(adamw, lr=1.0, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.0)
            )

    def schedule(self, step: int) -> float:
        """Sets every rate for `step`; returns the schedule's factor."""
        rate = self.plan.rate(step)
        left = 1 - step / self.plan.steps
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["peak"] * rate
                if isinstance(part, Muon):
                    group["weight_decay"] = self.plan.weight_decay * left
                    # Momentum warms up: early gradients are stale soon (modded-nanogpt).
                    group["momentum"] = 0.85 + 0.10 * min(1.0, step / 300)
        return rate

    def step(self) -> None:
        """Moves every parameter and drops the gradients."""
        for part in self.parts:
            part.step()
            part.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """All state as named tensors, e.g. `model.norm.weight/exp_avg` (sharded ones sharded)."""
        return {
            f"{self.names[id(p)]}/{key}": value
            for part in self.parts
            for group in part.param_groups
            for p in group["params"]
            for key, value in part.state[p].items()
            if isinstance(value, Tensor)
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what `tensors` returned (placed as the parameters are)."""
        for part in self.parts:
            for group in part.param_groups:
                for p in group["params"]:
                    prefix = f"{self.names[id(p)]}/"
                    for key in [k for k in tensors if k.startswith(prefix)]:
                        part.state[p][key.removeprefix(prefix)] = tensors[key]


def split(model: nn.Module) -> dict[str, list[Tensor]]:
    """Trainable parameters by how they learn: matrix, embedding, head, scalar. LoRA's factors
    count as scalars: orthogonal updates of a rank-r factor are no use."""
    groups: dict[str, list[Tensor]] = {"matrix": [], "embedding": [], "head": [], "scalar": []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if "lora_" in name or parameter.dim() < 2:
            groups["scalar"].append(parameter)
        elif "embed_tokens" in name:
            groups["embedding"].append(parameter)
        elif "lm_head" in name:
            groups["head"].append(parameter)
        else:
            groups["matrix"].append(parameter)
    return groups

"""One process or many: torchrun's environment, gradient sums, FSDP2.

Every process builds the same global batch and takes its share of rows, so the data order doesn't
depend on the number of processes. The loss is divided by the global number of targets before the
gradients are summed: 1 process × 4 micro-batches, 2 × 2 and 4 × 1 train the same model.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from everloop.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """This process among those of the run."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    sharded: bool = False

    @property
    def first(self) -> bool:
        """The process that prints and writes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Waits for all."""
        if self.world > 1:
            dist.barrier()

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all processes."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [float(v) for v in tensor]

    def broadcast(self, value: dict[str, Any]) -> dict[str, Any]:
        """The first process's value, everywhere."""
        if self.world == 1:
            return value
        holder: list[Any] = [value]
        dist.broadcast_object_list(holder, src=0, device=self.device)
        return dict(holder[0])

    def sum_gradients(self, model: nn.Module) -> None:
        """Adds up gradients over processes; FSDP2 has already done it where sharded."""
        if self.world == 1 or self.sharded:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        at = 0
        for gradient in gradients:
            gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
            at += gradient.numel()


def start(*, sharded: bool = False) -> Processes:
    """Joins the run that torchrun started, or makes a run of one process."""
    if "RANK" not in os.environ:
        if sharded:
            raise InvalidRequest(
                "--fsdp needs several processes: start with `torchrun --nproc-per-node N -m "
                "everloop pretrain …`.",
                param="fsdp",
            )
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return Processes(device=device)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    return Processes(rank=rank, world=world, device=device, sharded=sharded)


def stop() -> None:
    """Leaves the run."""
    if dist.is_initialized():
        dist.destroy_process_group()


def shard(model: nn.Module, blocks: nn.ModuleList, processes: Processes) -> None:
    """Splits parameters over processes with FSDP2, block by block, in place."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(processes.device.type, (processes.world,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    # `hidden` is called by itself, not through `forward`, where FSDP2 gathers the weights.
    register_fsdp_forward_method(model, "hidden")
    for module in (*blocks, model):
        # The loss is already divided by the global number of targets: sum, don't average.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no other


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered (every process must call this), any other as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    gathered: Tensor = tensor.full_tensor()
    return gathered


def placed_like(value: Tensor, like: Tensor) -> Tensor:
    """`value` where and sharded as `like` is; a scalar (AdamW's step count) stays as it is."""
    if value.dim() == 0:
        return value
    if not isinstance(like, DTensor):
        return value.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)

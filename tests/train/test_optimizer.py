"""Muon's update, who learns how, and that state survives a file."""

from __future__ import annotations

import pytest
import torch

from everloop.model import lora
from everloop.model.lora import LoraConfig
from everloop.model.transformer import Transformer
from everloop.train.muon import Muon, orthogonalize
from everloop.train.optimizer import Optimizer, split

from .small import small_config, small_plan


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(48, 128), (128, 48), (64, 64)])
def test_singular_values_come_to_one(shape: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    u, s, v = torch.linalg.svd(torch.randn(3, *shape), full_matrices=False)
    spread = u @ torch.diag_embed(torch.logspace(0, -2, s.shape[-1]).expand_as(s)) @ v
    result = orthogonalize(spread * torch.tensor([1e-6, 1.0, 1e6])[:, None, None], dtype)
    assert (result.dtype, result.shape) == (torch.float32, (3, *shape))
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.7
    assert values.max() < 1.2
    # The same directions: the result is near the polar factor of what went in.
    assert ((result * (u @ v)).sum((-2, -1)) / s.shape[-1]).min() > 0.85


def test_a_zero_gradient_is_no_update_and_no_nan() -> None:
    assert torch.equal(orthogonalize(torch.zeros(2, 8, 4)), torch.zeros(2, 8, 4))


def test_muon_moves_by_its_rate_and_decays_cautiously() -> None:
    weight = torch.nn.Parameter(torch.ones(8, 4))
    gradient = torch.zeros(8, 4)
    gradient[:4] = torch.eye(4)
    gradient[4:] = -torch.eye(4)
    weight.grad = gradient
    muon = Muon([weight], lr=0.1, weight_decay=0.5, momentum=0.9)
    muon.step()
    moved = 1 - weight.detach()
    # Both halves of each column get ±1/√2 of an orthonormal direction, scaled by √(rows/columns).
    step = 0.1 * 2**0.5 * orthogonalize(gradient[None])[0]
    shrinks = gradient > 0  # decay only where the update shrinks the weight, or leaves it
    torch.testing.assert_close(moved - step, 0.05 * (shrinks | (gradient == 0)).float())


def test_who_learns_how() -> None:
    model = Transformer(small_config())
    names = {id(p): n for n, p in model.named_parameters()}
    groups = {k: {names[id(p)] for p in v} for k, v in split(model).items()}
    assert groups["embedding"] == {"model.embed_tokens.weight"}
    assert groups["head"] == {"lm_head.weight"}
    assert all("norm" in n for n in groups["scalar"])
    assert all(n.endswith("proj.weight") for n in groups["matrix"])
    assert sum(map(len, groups.values())) == len(names)
    tied = split(Transformer(small_config(tie_word_embeddings=True)))
    assert (len(tied["embedding"]), len(tied["head"])) == (1, 0)
    lora.attach(model, LoraConfig(rank=2))
    adapters = split(model)
    assert not adapters["matrix"] + adapters["embedding"] + adapters["head"]
    assert len(adapters["scalar"]) == 2 * 7 * model.config.num_hidden_layers


def test_rates_follow_the_schedule() -> None:
    plan = small_plan(tokens=256 * 100, warmup_steps=10)
    optimizer = Optimizer(Transformer(small_config()), plan)
    muon, adamw = optimizer.parts
    for step in (0, 9, 20, 60, 99):
        rate = optimizer.schedule(step)
        assert rate == plan.rate(step)
        assert muon.param_groups[0]["lr"] == pytest.approx(plan.matrix_lr * rate)
        assert muon.param_groups[0]["weight_decay"] == pytest.approx(0.1 * (1 - step / 100))
        peaks = [plan.embedding_lr, plan.head_lr, plan.scalar_lr]
        assert [g["lr"] for g in adamw.param_groups] == pytest.approx([p * rate for p in peaks])
        assert all(g["weight_decay"] == 0 for g in adamw.param_groups)


def test_state_goes_into_tensors_and_back() -> None:
    def after(steps: int, model: Transformer, optimizer: Optimizer) -> dict[str, torch.Tensor]:
        for step in range(steps):
            torch.manual_seed(step)
            for p in model.parameters():
                p.grad = torch.randn_like(p)
            optimizer.schedule(step)
            optimizer.step()
        return {n: p.detach().clone() for n, p in model.named_parameters()}

    model = Transformer(small_config())
    optimizer = Optimizer(model, small_plan())
    state = after(2, model, optimizer)
    kept = {k: v.clone() for k, v in optimizer.tensors().items()}
    assert {k.partition("/")[2] for k in kept} == {"momentum", "exp_avg", "exp_avg_sq", "step"}
    other = Transformer(small_config())
    other.load_state_dict(state)
    again = Optimizer(other, small_plan())
    again.load(kept)
    one, two = after(2, model, optimizer), after(2, other, again)
    assert all(torch.equal(one[n], two[n]) for n in one)

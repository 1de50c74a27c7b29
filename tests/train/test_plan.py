"""One dial sets the plan; every number of it can be set by hand."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everloop.errors import InvalidRequest
from everloop.train.plan import SIZES, Plan, derive, size_config, size_for

from .small import small_config, small_plan


@given(st.integers(1, 4000), st.integers(0, 60), st.floats(0, 1))
def test_the_schedule_warms_up_holds_and_falls(steps: int, warmup: int, warmdown: float) -> None:
    plan = small_plan(tokens=256 * steps, warmup_steps=warmup, warmdown=warmdown)
    rates = [plan.rate(step) for step in range(plan.steps)]
    assert len(rates) == steps
    assert all(0 < rate <= 1 for rate in rates)
    start = steps * (1 - warmdown)
    for step in range(1, steps):
        if step < min(warmup, start):
            assert rates[step] > rates[step - 1]
        elif warmup <= step and step > start + 1:
            assert rates[step] < rates[step - 1]
        elif warmup <= step < start:
            assert rates[step] == 1
    if warmdown > 0 and warmup < steps:
        assert rates[-1] <= plan.final_lr + 1 / max(1, steps - start)


def test_sizes_grow_and_flops_choose_among_them() -> None:
    configs = [size_config(s, vocab_size=6400, context_length=1024) for s in SIZES]
    parameters = [c.matmul_parameters for c in configs]
    assert parameters == sorted(parameters)
    assert all(c.hidden_size % c.head_dim == 0 and c.qk_norm for c in configs)
    chosen = [size_for(10.0**k, vocab_size=6400) for k in range(12, 21)]
    order = list(SIZES)
    assert [order.index(s) for s in chosen] == sorted(order.index(s) for s in chosen)
    assert (chosen[0], chosen[-1]) == ("d2", "d20")
    assert size_for(3e15, vocab_size=6400) == "d4"  # 110.7M · .003^.54 = 4.8M, as D4 has
    with pytest.raises(InvalidRequest, match="one of d2") as error:
        size_config("d3", vocab_size=6400, context_length=1024)
    assert error.value.param == "size"


D4 = size_config("d4", vocab_size=6400, context_length=1024)


def test_one_dial_gives_the_recipe() -> None:
    plan = derive(D4, tokens=33_000_000, kind="pretrain")  # 1e15 operations
    assert (plan.sequence_length, plan.batch_tokens) == (256, 2**14)
    assert plan.matrix_lr == pytest.approx(0.04 * (2**14 / 2**19) ** 0.5)
    assert (plan.warmup_steps, plan.warmdown, plan.final_lr) == (40, 0.65, 0.05)
    gentle = derive(D4, tokens=33_000_000, kind="finetune", batch_tokens=2**14)
    assert gentle.matrix_lr == pytest.approx(0.3 * plan.matrix_lr)
    assert gentle.weight_decay == 0


@given(st.integers(1, 10**12), st.sampled_from(["pretrain", "finetune", "lora"]))
def test_any_budget_makes_a_plan(tokens: int, kind: Any) -> None:
    plan = derive(D4, tokens=tokens, kind=kind)
    assert plan.batch_tokens % plan.sequence_length == 0
    assert plan.rows >= plan.micro_rows >= 1
    assert plan.micro_rows * plan.sequence_length <= max(4096, plan.sequence_length)
    assert plan.steps >= 1
    assert plan.steps >= 100 or plan.batch_tokens <= 1024 or tokens < 102_400


def test_every_number_can_be_set() -> None:
    given = {
        "sequence_length": 128, "batch_tokens": 1280, "matrix_lr": 0.1, "embedding_lr": 0.2,
        "head_lr": 0.3, "scalar_lr": 0.4, "weight_decay": 0.5, "warmup_steps": 6, "warmdown": 0.7,
        "seed": 8, "balance": 0.9, "exit_loss": 0.2,
    }  # fmt: skip
    plan = derive(D4, tokens=10**6, kind="pretrain", micro_tokens=300, **given)  # type: ignore[arg-type]
    assert {k: getattr(plan, k) for k in given} == given
    assert plan.micro_rows == 2
    named = {f.name for f in fields(Plan)}
    assert named - given.keys() == {"tokens", "micro_rows", "final_lr", "robust"}


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"sequence_length": 256, "batch_tokens": 1000}, "batch_tokens"),
        ({"sequence_length": 2000}, "sequence_length"),
        ({"sequence_length": 256, "batch_tokens": 128}, "batch_tokens"),
        ({"warmdown": 1.5}, "warmdown"),
        ({"matrix_lr": -1.0}, "matrix_lr"),
        ({"head_lr": float("nan")}, "head_lr"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_is_refused_by_name(given: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        derive(D4, tokens=10**6, kind="pretrain", **given)
    assert error.value.param == param
    assert param in error.value.message.replace("-", "_")


def test_a_short_context_shortens_the_rows() -> None:
    plan = derive(small_config(), tokens=10**6, kind="finetune")
    assert plan.sequence_length == small_config().max_position_embeddings

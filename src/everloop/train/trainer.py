"""The training loop, the same for pretraining and tuning, one process or many."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from everloop.errors import InvalidRequest
from everloop.model.transformer import Transformer
from everloop.train import checkpoint, exits, loss
from everloop.train.distributed import Processes
from everloop.train.loader import Batch, Loader
from everloop.train.objective import Objective
from everloop.train.optimizer import Optimizer
from everloop.train.plan import Plan
from everloop.train.progress import Progress
from everloop.train.robust import parse


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a finished (or interrupted) run did."""

    steps: int
    targets: int
    seconds: float
    final_loss: float
    finished: bool
    validation: dict[str, float]


class Trainer:
    """Trains `model` in place. `validate` returns named numbers, e.g. bits per byte."""

    def __init__(
        self,
        *,
        model: Transformer,
        plan: Plan,
        loader: Loader,
        run: Path,
        tokenizer_dir: Path,
        data_fingerprint: str,
        processes: Processes,
        bf16: bool,
        checkpoint_minutes: float = 5.0,
        validate: Callable[[Transformer], dict[str, float]] | None = None,
        validate_steps: int = 0,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        if plan.rows % processes.world:
            raise InvalidRequest(
                f"{plan.rows} rows a step can't be shared by {processes.world} processes: set "
                f"--batch-tokens to a multiple of {processes.world * plan.sequence_length}.",
                param="batch_tokens",
            )
        self.model, self.plan, self.loader, self.run = model, plan, loader, run
        self.tokenizer_dir, self.data = tokenizer_dir, data_fingerprint
        self.processes, self.bf16 = processes, bf16
        self.checkpoint_minutes = checkpoint_minutes
        self.validate, self.validate_steps, self.stop = validate, validate_steps, stop
        self.optimizer = Optimizer(model, plan, bf16=bf16)
        self.done, self.targets, self.seconds = 0, 0, 0.0
        self.robust: Objective | None = None
        if robust := parse(plan.robust):
            self.robust = Objective(model, robust, seed=plan.seed, autocast=self.autocast)
        self.terms = 0.0
        """Of the last step: what loss terms against noise added, in nats a target."""

    def resume(self, path: Path) -> None:
        """Goes on from a checkpoint of the same plan and data."""
        state = checkpoint.read_state(path)
        ours = self.plan.to_json()
        # The length may change: a run can be shortened or prolonged where it stands.
        free = ("tokens", "steps")
        theirs = {
            "exit_loss": 0.0,
            "balance": 0.0,
            "robust": "",
            **state.plan,
        }  # which earlier versions didn't know
        different = [k for k, v in ours.items() if k not in free and theirs.get(k) != v]
        if different:
            raise InvalidRequest(
                f"{path} was trained with other settings: "
                + ", ".join(f"{k}={theirs.get(k)} (now {ours[k]})" for k in different)
                + ". Give the same ones, or another --out.",
                param=different[0],
            )
        if state.data != self.data:
            raise InvalidRequest(
                f"{path} was trained on other data. Give the same packed data, or another --out."
            )
        checkpoint.restore(path, self.model, self.optimizer)
        self.loader.cursor = replace(state.cursor)
        self.done, self.targets, self.seconds = state.step, state.targets, state.seconds

    def train(self) -> Outcome:
        """Runs to the end of the plan, or until `stop()`; leaves a checkpoint either way."""
        began = last_saved = time.monotonic()
        before = self.seconds
        flops = self.model.config.flops_per_token(self.plan.sequence_length // 2) * self.plan.cost
        self.model.train()
        with Progress(
            self.run, steps=self.plan.steps, first_step=self.done, shown=self.processes.first
        ) as progress:
            # A run killed after its last step goes on with what that step has shown.
            mean, checks = progress.loss, progress.validation
            while self.done < self.plan.steps and not self._stopping():
                at = time.monotonic()
                rate = self.optimizer.schedule(self.done)
                mean, targets = self.step(self.loader.next())
                self.done += 1
                self.targets += targets
                self.seconds = before + time.monotonic() - began
                speed = self.plan.batch_tokens / (time.monotonic() - at)
                progress.step(
                    self.done,
                    loss=mean,
                    tokens_per_s=speed,
                    flops_per_s=speed * flops,
                    rate=rate,
                    **({"terms": self.terms} if self.robust else {}),
                )
                if not math.isfinite(mean):
                    raise InvalidRequest(
                        f"The loss is {mean} at step {self.done}: the run has diverged. Lower "
                        "--matrix-lr (and --embedding-lr), or raise --warmup-steps.",
                        param="matrix_lr",
                    )
                if self.done == self.plan.steps:
                    break
                if self.validate and self.validate_steps and self.done % self.validate_steps == 0:
                    checks = self.check(progress)
                if time.monotonic() - last_saved > 60 * self.checkpoint_minutes:
                    self.save()
                    last_saved = time.monotonic()
            finished = self.done >= self.plan.steps
            if finished and self.validate and progress.checked != self.done:
                checks = self.check(progress)
            self.seconds = before + time.monotonic() - began
            self.save()
        return Outcome(
            steps=self.done,
            targets=self.targets,
            seconds=self.seconds,
            final_loss=mean,
            finished=finished,
            validation=checks,
        )

    def step(self, batch: Batch) -> tuple[float, int]:
        """One optimizer step. Returns the mean loss in nats and the number of targets."""
        found, total = batch.target_tokens, batch.weight
        if found == 0:
            raise InvalidRequest(
                f"Step {self.done + 1} has no token to learn: every target is masked. Look at the "
                "mask with `everloop data inspect FILE`; answers longer than --sequence-length "
                "lose their end."
            )
        mine = batch.rows(self.processes.rank, len(batch.ids), self.processes.world)
        numbers = range(self.processes.rank, len(batch.ids), self.processes.world)
        local = terms = 0.0
        for start in range(0, len(mine.ids), self.plan.micro_rows):
            end = start + self.plan.micro_rows
            inputs = loss.tensors(mine.rows(start, end), self.processes.device)
            if self.robust:
                said, added = self.robust.learn(
                    inputs, total=total, step=self.done, numbers=numbers[start:end]
                )
                local, terms = local + said, terms + added
                continue
            with self.autocast():
                objective, nats = exits.objective(
                    self.model, inputs, weight=self.plan.exit_loss, step=self.done
                )
            # Divided by the targets of the whole batch (by their weights), not of this part:
            # gradient accumulation and more processes must not change what is learnt
            # (transformers #34191).
            (objective / total).backward()  # type: ignore[no-untyped-call]
            local += float(nats.detach())
        self.processes.sum_gradients(self.model)
        self.optimizer.step()
        local, terms = self.processes.sum(local, terms)
        self.terms = terms / total
        return local / total, found

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bfloat16 where the run was found to be faster with it."""
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.processes.device.type, dtype=torch.bfloat16)

    def check(self, progress: Progress) -> dict[str, float]:
        """Held-out numbers, reported and written down."""
        assert self.validate is not None
        self.model.eval()
        with torch.no_grad(), self.autocast():
            values = self.validate(self.model)
        self.model.train()
        progress.row(step=self.done, validation=values)
        numbers = ", ".join(f"{k} {v:.4f}" for k, v in values.items())
        progress.say(f"step {self.done}: {numbers}")
        return values

    def save(self) -> None:
        """Writes a checkpoint now."""
        state = checkpoint.State(
            step=self.done,
            cursor=replace(self.loader.cursor),
            plan=self.plan.to_json(),
            data=self.data,
            seconds=self.seconds,
            targets=self.targets,
        )
        checkpoint.save(
            self.run,
            state,
            self.model,
            self.optimizer,
            tokenizer_dir=self.tokenizer_dir,
            processes=self.processes,
        )

    def _stopping(self) -> bool:
        """All processes stop together if one is asked to."""
        return self.processes.sum(float(self.stop()))[0] > 0

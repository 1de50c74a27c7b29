"""The model in PyTorch: on a GPU, where there is no compiler, and to check the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from everloop.engine.native.backend import Backend, Choice, Floats, Rows, Sampler, Top
from everloop.engine.native.device import DeviceRunner
from everloop.engine.native.leaving import Leaving
from everloop.engine.native.noise import uniform
from everloop.engine.native.runner import Runner
from everloop.engine.native.sampler import sample
from everloop.model.early_exit import EarlyExits, Gate


class EagerSampler(Sampler):
    """Rules, noise, and the output's counts in `choice`."""

    __slots__ = ("choice", "drawn", "seed")

    def __init__(self, choice: Choice, seed: int) -> None:
        self.choice, self.seed, self.drawn = choice, seed, 0

    def accept(self, token: int) -> None:
        """Records a token as part of the output."""
        self.drawn += 1
        self.choice.output[token] = self.choice.output.get(token, 0) + 1


class EagerBackend(Backend):
    """Steps of a runner: float32 on the CPU, or on a device."""

    def __init__(self, runner: Runner | DeviceRunner) -> None:
        self.runner = runner
        self.name = runner.name
        self.threads = torch.get_num_threads()
        self.vocab_size = runner.config.vocab_size
        self.block_size = runner.block_size
        self.blocks = runner.blocks
        self._hidden = torch.empty(0)
        self._gates: dict[int, Gate] = {}

    def open_exits(self, exits: EarlyExits) -> None:
        self._gates = dict(exits.gates)

    @torch.inference_mode()
    def forward(self, batch: Sequence[Rows]) -> list[bool]:
        leaving = Leaving(batch, self._gates, self.runner.config.rms_norm_eps)
        self._hidden = self.runner.forward(batch, leaving)
        self._left = leaving.left()
        fine = self._hidden.sum(-1).isfinite().tolist()
        out, at = [], 0
        for rows in batch:
            out.append(all(fine[at : at + len(rows.ids)]))
            at += len(rows.ids)
        return out

    def hidden(self, rows: Sequence[int]) -> Floats:
        return cast(Floats, self._hidden[list(rows)].float().cpu().numpy())

    def logits(self, rows: Sequence[int]) -> Floats:
        return cast(Floats, self.runner.head(self._hidden[list(rows)]).cpu().numpy())

    @torch.inference_mode()
    def logprobs(
        self, logits: Floats, targets: Sequence[int], tops: Sequence[int]
    ) -> list[tuple[float, Top]]:
        logprobs = torch.from_numpy(logits).log_softmax(-1)
        own = logprobs.gather(1, torch.tensor(targets)[:, None])[:, 0].tolist()
        most = min(max(tops), self.vocab_size)
        if not most:
            return [(value, []) for value in own]
        values, ids = logprobs.topk(most, dim=-1)
        rows = zip(own, ids.tolist(), values.tolist(), tops, strict=True)
        return [(o, list(zip(i[:n], v[:n], strict=True))) for o, i, v, n in rows]

    def sampler(self, choice: Choice, seed: int) -> EagerSampler:
        return EagerSampler(choice, seed)

    @torch.inference_mode()
    def verify(
        self, logits: Floats, samplers: Sequence[Sampler], drafts: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        return self._verify(torch.from_numpy(logits), samplers, drafts)

    @torch.inference_mode()
    def _draw(
        self, rows: Sequence[int], samplers: Sequence[Sampler], drafts: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        # Where the logits are: on a GPU they would take longer to come here.
        return self._verify(self.runner.head(self._hidden[list(rows)]), samplers, drafts)

    def _verify(
        self, rows: Tensor, samplers: Sequence[Sampler], drafts: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        fine = rows.sum(-1).isfinite().tolist()
        starts = [0]
        for draft in drafts[:-1]:
            starts.append(starts[-1] + len(draft) + 1)
        out: list[list[int]] = [[] for _ in samplers]
        open_ = list(range(len(samplers)))
        while open_:
            at = {i: starts[i] + len(out[i]) for i in open_}
            broken = [i for i in open_ if not fine[at[i]]]
            for i in broken:
                out[i].append(-1)
            open_ = [i for i in open_ if i not in broken]
            tokens = self._sample(rows[[at[i] for i in open_]], [samplers[i] for i in open_])
            still = []
            for i, token in zip(open_, tokens, strict=True):
                out[i].append(token)
                if len(out[i]) <= len(drafts[i]) and token == drafts[i][len(out[i]) - 1]:
                    still.append(i)
            open_ = still
        return out

    def _sample(self, logits: Tensor, samplers: Sequence[Sampler]) -> list[int]:
        if not samplers:
            return []
        mine = [cast(EagerSampler, s) for s in samplers]
        draws = [uniform(s.seed, s.drawn) for s in mine]
        tokens = sample(logits, [s.choice for s in mine], draws)
        for sampler, token in zip(mine, tokens, strict=True):
            sampler.accept(token)
        return tokens

    @torch.inference_mode()
    def clear(self, blocks: Sequence[int]) -> None:
        self.runner.cache.clear(list(blocks))

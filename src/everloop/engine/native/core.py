"""The engine itself: synchronous, one step at a time, in whatever process calls it."""

from __future__ import annotations

import torch
from torch import Tensor

from everloop.engine.native.blocks import BlockManager
from everloop.engine.native.jobs import Event, GenerateJob, Job, ScoreJob, Top
from everloop.engine.native.runner import Rows, Runner
from everloop.engine.native.sampler import sample
from everloop.engine.native.scheduler import Scheduler
from everloop.engine.native.sequence import Piece, Sequence

SCORED_ROWS = 64
"""Rows whose logits are held at once while scoring: bounds memory for large vocabularies."""

NOT_FINITE = "The model's numbers are not finite (NaN or infinity) for this request."


class Core:
    """Jobs in, events out.

    `submit` queues, `step` computes the next tokens of everyone and returns what happened,
    `cancel` ends a job and frees its blocks at once. Not thread-safe.
    """

    def __init__(self, runner: Runner, *, max_running: int, chunk: int) -> None:
        self.runner = runner
        self.blocks = BlockManager(runner.cache.keys.shape[1], runner.block_size)
        self.scheduler = Scheduler(self.blocks, max_running=max_running, chunk=chunk)
        self._jobs: dict[int, Job] = {}
        self._ready: list[Event] = []  # of jobs that needed no step

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._jobs or self._ready)

    def submit(self, job: Job) -> None:
        """Queues a job; its sequences must fit the cache."""
        assert job.key not in self._jobs
        if isinstance(job, ScoreJob) and not job.sequences:
            self._ready.append(job.finish())
            return
        self._jobs[job.key] = job
        for sequence in job.sequences:
            self.scheduler.add(sequence)

    def cancel(self, key: int) -> tuple[int, int, int] | None:
        """Ends a job; returns the tokens it used, or None if there is no such job (any more)."""
        job = self._jobs.get(key)
        if job is None:
            return None
        self._drop(job)
        return job.usage()

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Computes one batch. Events are in order for each job."""
        events, self._ready = self._ready, []
        pieces = self.scheduler.plan()
        if not pieces:
            return events
        hidden = self.runner.forward(
            [
                Rows(
                    ids=p.sequence.tokens[p.start : p.start + p.length],
                    start=p.start,
                    table=p.sequence.blocks,
                )
                for p in pieces
            ]
        )
        self.scheduler.advance(pieces)
        starts = _starts(pieces)
        broken = self._broken(pieces, starts, hidden)
        for sequence in broken:
            self._fail(sequence, events)
        alive = [(p, i) for p, i in zip(pieces, starts, strict=True) if not p.sequence.job.done]
        self._score(alive, hidden, events)
        for piece, i in alive:
            if piece.sequence.pools:
                piece.sequence.job.pooled(piece.sequence, hidden[i : i + piece.length])
        self._sample(alive, hidden, events)
        for piece, _ in alive:
            sequence = piece.sequence
            if not sequence.left and not sequence.samples and not sequence.job.done:
                self.scheduler.remove(sequence)
                sequence.ended = True
                self._emit(sequence.job, sequence.job.computed(sequence), events)
        return events

    def _broken(self, pieces: list[Piece], starts: list[int], hidden: Tensor) -> list[Sequence]:
        """Sequences with a NaN or an infinity in any row of theirs."""
        fine = hidden.sum(-1).isfinite()
        if bool(fine.all()):
            return []
        rows = fine.tolist()
        return [
            p.sequence
            for p, i in zip(pieces, starts, strict=True)
            if not all(rows[i : i + p.length])
        ]

    def _score(self, alive: list[tuple[Piece, int]], hidden: Tensor, events: list[Event]) -> None:
        """Log-probabilities of the targets among this step's rows."""
        wanted: list[tuple[Sequence, int, int]] = []  # sequence, row, target
        for piece, i in alive:
            sequence = piece.sequence
            first = sequence.score_from + sequence.scored
            last = min(piece.start + piece.length, sequence.score_from + len(sequence.targets))
            for position in range(max(first, piece.start), last):
                target = sequence.targets[position - sequence.score_from]
                wanted.append((sequence, i + position - piece.start, target))
        for k in range(0, len(wanted), SCORED_ROWS):
            some = wanted[k : k + SCORED_ROWS]
            logits = self.runner.head(hidden[[row for _, row, _ in some]])
            found = self._logprobs(
                logits, [target for _, _, target in some], [s.job.top for s, _, _ in some]
            )
            for (sequence, _, _), (logprob, top) in zip(some, found, strict=True):
                if sequence.job.done:
                    continue
                if logprob != logprob:
                    self._fail(sequence, events)
                    continue
                sequence.scored += 1
                sequence.job.scored(sequence, logprob, top)

    def _sample(self, alive: list[tuple[Piece, int]], hidden: Tensor, events: list[Event]) -> None:
        """The next token of every sequence whose tokens are all computed."""
        last = [
            (p.sequence.job, i + p.length - 1, p.sequence)
            for p, i in alive
            if p.sequence.samples and not p.sequence.left and not p.sequence.job.done
        ]
        if not last:
            return
        logits = self.runner.head(hidden[[row for _, row, _ in last]])
        fine = logits.sum(-1).isfinite().tolist()
        if not all(fine):
            for (_, _, sequence), good in zip(last, fine, strict=True):
                if not good:
                    self._fail(sequence, events)
            keep = [i for i, good in enumerate(fine) if good]
            if not keep:
                return
            last, logits = [last[i] for i in keep], logits[keep]
        jobs = [job for job, _, _ in last if isinstance(job, GenerateJob)]
        tokens = sample(logits, [j.choice for j in jobs], [j.draw() for j in jobs])
        found: list[tuple[float | None, Top]] = [(None, [])] * len(jobs)
        asked = [i for i, job in enumerate(jobs) if job.wants_logprob()]
        if asked:
            values = self._logprobs(
                logits[asked], [tokens[i] for i in asked], [jobs[i].top for i in asked]
            )
            for i, value in zip(asked, values, strict=True):
                found[i] = value
        for job, token, (logprob, top) in zip(jobs, tokens, found, strict=True):
            self._emit(job, job.sampled(token, logprob, top), events)

    def _logprobs(
        self, logits: Tensor, targets: list[int], tops: list[int]
    ) -> list[tuple[float, Top]]:
        """log p of each row's target under the model itself, and the row's best tokens."""
        logprobs = logits.log_softmax(-1)
        own = logprobs.gather(1, torch.tensor(targets)[:, None])[:, 0].tolist()
        most = min(max(tops), logits.shape[-1])
        if not most:
            return [(value, []) for value in own]
        values, ids = logprobs.topk(most, dim=-1)
        rows = zip(own, ids.tolist(), values.tolist(), tops, strict=True)
        return [(o, list(zip(i[:n], v[:n], strict=True))) for o, i, v, n in rows]

    def _fail(self, sequence: Sequence, events: list[Event]) -> None:
        """Ends a job whose numbers broke, and cleans the blocks that may hold them."""
        job = sequence.job
        if not job.done:
            job.done = True
            self.runner.cache.clear([b for s in job.sequences for b in s.blocks])
            self._emit(job, Event(key=job.key, error=NOT_FINITE, usage=job.usage()), events)

    def _emit(self, job: Job, event: Event | None, events: list[Event]) -> None:
        if event is not None:
            events.append(event)
        if job.done:
            self._drop(job)

    def _drop(self, job: Job) -> None:
        job.done = True
        del self._jobs[job.key]
        for sequence in job.sequences:
            if not sequence.ended:
                self.scheduler.remove(sequence)


def _starts(pieces: list[Piece]) -> list[int]:
    """The first row of each piece."""
    out, at = [], 0
    for piece in pieces:
        out.append(at)
        at += piece.length
    return out

"""The engine itself: synchronous, one step at a time, in whatever process calls it."""

from __future__ import annotations

import time

from everloop.engine.native.backend import Backend, Floats, Rows, Top, Writer
from everloop.engine.native.blocks import BlockManager
from everloop.engine.native.jobs import Event, GenerateJob, Job, ScoreJob
from everloop.engine.native.scheduler import Scheduler
from everloop.engine.native.sequence import Piece, Sequence

SCORED_ROWS = 64
"""Rows whose logits are held at once while scoring: bounds memory for large vocabularies."""

RUN_SECONDS = 0.008
"""Streams write several tokens in one go, as many as fit this time: Python's share of a step stays
small, and a new request or a cancelled one waits no longer than this."""

RUN_STEPS = 32
"""Steps of one go at most."""

NOT_FINITE = "The model's numbers are not finite (NaN or infinity) for this request."


class Core:
    """Jobs in, events out.

    `submit` queues, `step` computes the next tokens of everyone and returns what happened,
    `cancel` ends a job and frees its blocks at once. Not thread-safe.
    """

    def __init__(self, backend: Backend, *, max_running: int, chunk: int) -> None:
        self.backend = backend
        self.blocks = BlockManager(backend.blocks, backend.block_size)
        self.scheduler = Scheduler(self.blocks, max_running=max_running, chunk=chunk)
        self._jobs: dict[int, Job] = {}
        self._ready: list[Event] = []  # of jobs that needed no step
        self._step_seconds = RUN_SECONDS  # of one token for everyone, lately

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
        if isinstance(job, GenerateJob):
            job.sampler = self.backend.sampler(job.choice, job.seed)
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

    def step(self) -> list[Event]:
        """Computes one batch. Events are in order for each job."""
        events, self._ready = self._ready, []
        if not self._write(events):
            self._compute(events)
        return events

    def _compute(self, events: list[Event]) -> None:
        """One step of whatever the scheduler plans."""
        pieces = self.scheduler.plan()
        if not pieces:
            return
        began = time.perf_counter()
        fine = self.backend.forward(
            [
                Rows(
                    ids=p.sequence.tokens[p.start : p.start + p.length],
                    start=p.start,
                    table=p.sequence.blocks,
                )
                for p in pieces
            ]
        )
        for piece, good in zip(pieces, fine, strict=True):
            if not good:
                self._fail(piece.sequence, events)
        self.scheduler.advance([p for p, good in zip(pieces, fine, strict=True) if good])
        starts = _starts(pieces)
        alive = [(p, i) for p, i in zip(pieces, starts, strict=True) if not p.sequence.job.done]
        self._score(alive, events)
        for piece, i in alive:
            if piece.sequence.pools:
                hidden = self.backend.hidden(range(i, i + piece.length))
                piece.sequence.job.pooled(piece.sequence, hidden)
        self._sample(alive, events)
        for piece, _ in alive:
            sequence = piece.sequence
            if not sequence.left and not sequence.samples and not sequence.job.done:
                self.scheduler.remove(sequence)
                sequence.ended = True
                self._emit(sequence.job, sequence.job.computed(sequence), events)
        prompts = [p.length for p in pieces if p.length > 1]
        seconds = time.perf_counter() - began
        self.scheduler.observe(sum(prompts), len(pieces) - len(prompts), seconds)
        if not prompts:
            self._step_seconds = seconds

    def _write(self, events: list[Event]) -> bool:
        """Several steps in one go, where everyone just writes; False if that isn't so."""
        running = self.scheduler.running
        if not running or self.scheduler.idle_waiting:
            return False
        most = RUN_STEPS
        jobs: list[GenerateJob] = []
        for sequence in running:
            job = sequence.job
            if sequence.left != 1 or not isinstance(job, GenerateJob) or job.wants_logprob():
                return False
            if not sequence.samples or sequence.scored < len(sequence.targets):
                return False
            most = min(most, job.remaining)
            jobs.append(job)
        most = min(most, max(1, int(RUN_SECONDS / self._step_seconds)))
        steps = self.scheduler.reserve(most)
        if steps < 2:
            return False
        sequences = list(running)
        began = time.perf_counter()
        made = self.backend.write(
            [
                Writer(
                    id=s.tokens[-1],
                    position=s.computed,
                    table=s.blocks,
                    sampler=job.sampler,
                    ends=job.eos,
                )
                for s, job in zip(sequences, jobs, strict=True)
            ],
            steps,
        )
        seconds = time.perf_counter() - began
        self._step_seconds = seconds / len(made)
        self.scheduler.observe(0, len(jobs), seconds, len(made))
        for i, (sequence, job) in enumerate(zip(sequences, jobs, strict=True)):
            self._take(sequence, job, [step[i] for step in made], events)
        return True

    def _take(
        self, sequence: Sequence, job: GenerateJob, tokens: list[int], events: list[Event]
    ) -> None:
        """Hands a job the tokens written for it, the first of them after all that is computed of
        the sequence but its last token."""
        for token in tokens:
            if token < 0:
                self._fail(sequence, events)
                return
            sequence.computed += 1
            self._emit(job, job.sampled(token, None, []), events)
            if job.done:
                return

    def _score(self, alive: list[tuple[Piece, int]], events: list[Event]) -> None:
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
            found = self.backend.logprobs(
                self.backend.logits([row for _, row, _ in some]),
                [target for _, _, target in some],
                [s.job.top for s, _, _ in some],
            )
            for (sequence, _, _), (logprob, top) in zip(some, found, strict=True):
                if sequence.job.done:
                    continue
                if logprob != logprob:
                    self._fail(sequence, events)
                    continue
                sequence.scored += 1
                sequence.job.scored(sequence, logprob, top)

    def _sample(self, alive: list[tuple[Piece, int]], events: list[Event]) -> None:
        """The next token of every sequence whose tokens are all computed."""
        last: list[tuple[GenerateJob, int, Sequence]] = []
        for piece, i in alive:
            sequence, job = piece.sequence, piece.sequence.job
            if sequence.samples and not sequence.left and not job.done:
                assert isinstance(job, GenerateJob)
                last.append((job, i + piece.length - 1, sequence))
        if not last:
            return
        logits = self.backend.logits([row for _, row, _ in last])
        drawn = self.backend.verify(logits, [j.sampler for j, _, _ in last], [()] * len(last))
        found = self._chosen(logits, [job for job, _, _ in last], [t for (t,) in drawn])
        for (job, _, sequence), (token,), (logprob, top) in zip(last, drawn, found, strict=True):
            if token < 0:
                self._fail(sequence, events)
            else:
                self._emit(job, job.sampled(token, logprob, top), events)

    def _chosen(
        self, logits: Floats, jobs: list[GenerateJob], tokens: list[int]
    ) -> list[tuple[float | None, Top]]:
        """Log-probabilities of sampled tokens, where they were asked for."""
        found: list[tuple[float | None, Top]] = [(None, [])] * len(jobs)
        asked = [i for i, job in enumerate(jobs) if job.wants_logprob() and tokens[i] >= 0]
        if asked:
            values = self.backend.logprobs(
                logits if len(asked) == len(jobs) else logits[asked],
                [tokens[i] for i in asked],
                [jobs[i].top for i in asked],
            )
            for i, value in zip(asked, values, strict=True):
                found[i] = value
        return found

    def _fail(self, sequence: Sequence, events: list[Event]) -> None:
        """Ends a job whose numbers broke, and cleans the blocks that may hold them: those after
        what was computed before, which others may share."""
        job = sequence.job
        if not job.done:
            job.done = True
            size = self.backend.block_size
            self.backend.clear([b for s in job.sequences for b in s.blocks[s.computed // size :]])
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

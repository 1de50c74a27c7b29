"""The engine itself: synchronous, one step at a time, in whatever process calls it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from everloop.engine.native.backend import Backend, Floats, Rows, Top, Writer
from everloop.engine.native.blocks import BlockManager
from everloop.engine.native.drafting import Drafting, Plan
from everloop.engine.native.jobs import Event, GenerateJob, Job, ScoreJob, Used
from everloop.engine.native.proposals import LARGEST_VOCABULARY
from everloop.engine.native.scheduler import Scheduler
from everloop.engine.native.sequence import Draft, Piece, Sequence

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

    def __init__(
        self, backend: Backend, *, max_running: int, chunk: int, drafting: bool = True
    ) -> None:
        """`chunk` bounds the prompt tokens of one step. Without `drafting` every step writes one
        token for each stream, and predictions have no effect."""
        self.backend = backend
        drafting = drafting and backend.vocab_size <= LARGEST_VOCABULARY
        self.drafting = Drafting(backend.vocab_size) if drafting else None
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
            if self.drafting is not None:
                job.draft(self.drafting.experience)
        self._jobs[job.key] = job
        for sequence in job.sequences:
            self.scheduler.add(sequence)

    def cancel(self, key: int) -> Used | None:
        """Ends a job; returns the tokens it used, or None if there is no such job (any more)."""
        job = self._jobs.get(key)
        if job is None:
            return None
        self._drop(job)
        return job.usage()

    def step(self) -> list[Event]:
        """Computes one batch. Events are in order for each job."""
        events, self._ready = self._ready, []
        began = time.perf_counter()
        plan = Plan() if self.drafting is None else self.drafting.plan(self.scheduler.running)
        if not self._write(plan, began, events):
            self._compute(plan, began, events)
        return events

    def _compute(self, plan: Plan, began: float, events: list[Event]) -> None:
        """One step of whatever the scheduler plans, with the drafts of `plan`."""
        pieces = self.scheduler.plan()
        if not pieces:
            return
        if plan.drafts:
            self._draft(pieces, plan.drafts)
        fine = self.backend.forward(
            [
                Rows(
                    ids=[*p.sequence.tokens[p.start : p.start + p.length], *p.draft],
                    start=p.start,
                    table=p.sequence.blocks,
                    exit=p.sequence.exit,
                )
                for p in pieces
            ]
        )
        starts = _starts(pieces)
        for piece, good in zip(pieces, fine, strict=True):
            if not good:
                self._broken(piece, events)
        self.scheduler.advance([p for p, good in zip(pieces, fine, strict=True) if good])
        alive = [
            (p, i)
            for p, i, good in zip(pieces, starts, fine, strict=True)
            if good and not p.sequence.job.done
        ]
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
        streams, rows = len(pieces) - len(prompts), sum(p.rows for p in pieces)
        seconds = time.perf_counter() - began
        self._computed(sum(prompts), streams, rows, seconds, shortened=plan.steps < 2)

    def _write(self, plan: Plan, began: float, events: list[Event]) -> bool:
        """Several steps in one go where everyone just writes; False if that isn't so."""
        running = self.scheduler.running
        if not running or self.scheduler.idle_waiting:
            return False
        drafts = plan.drafts
        most = RUN_STEPS
        jobs: list[GenerateJob] = []
        for sequence in running:
            job = sequence.job
            if sequence.left != 1 or not isinstance(job, GenerateJob) or job.wants_logprob():
                return False
            if not sequence.samples or sequence.scored < len(sequence.targets):
                return False
            if sequence not in drafts:
                most = min(most, job.remaining)
            jobs.append(job)
        seconds = self._step_seconds
        if self.drafting is not None and drafts:
            rows = len(jobs) + sum(draft.width for draft in drafts.values())
            seconds = self.drafting.costs.seconds(len(jobs), rows)
        most = min(most, max(1, int(RUN_SECONDS / seconds)))
        steps, least = min(most, plan.steps), 1 if drafts else 2
        if steps >= least:
            steps = self.scheduler.reserve(steps, drafts)
        if steps < least:
            return False
        sequences = list(running)
        made = self.backend.write(
            [_writer(s, job, drafts.get(s), steps) for s, job in zip(sequences, jobs, strict=True)],
            steps,
        )
        for sequence, job, tokens, left in zip(
            sequences, jobs, made.tokens, made.left, strict=True
        ):
            job.left += left
            self._take(sequence, job, [(token, None, []) for token in tokens], events, computed=0)
        for i in made.broken:
            self._forget_draft(sequences[i])
        seconds = time.perf_counter() - began
        costs = None if self.drafting is None else self.drafting.costs
        if drafts:
            assert costs is not None
            each = made.rows / made.steps, seconds / made.steps
            costs.drafted(len(jobs), *each, made.steps)
            return True
        self._step_seconds = seconds / made.steps
        self.scheduler.observe(0, len(jobs), seconds, made.steps)
        if costs is not None and (most <= plan.steps or costs.plain(len(jobs)) is None):
            costs.wrote(len(jobs), made.steps, seconds)
        return True

    def _take(
        self,
        sequence: Sequence,
        job: GenerateJob,
        news: Iterable[tuple[int, float | None, Top]],
        events: list[Event],
        *,
        computed: int,
    ) -> None:
        """Hands a job the tokens drawn for it. Their sequence is computed up to the token that
        number `computed` of them came from, and is now up to those that the others came from."""
        for i, (token, logprob, top) in enumerate(news):
            if token < 0:
                self._fail(sequence, events)
                return
            if i >= computed:
                sequence.computed += 1
            self._emit(job, job.sampled(token, logprob, top), events)
            if job.done:
                return

    def _computed(
        self, prompt: int, streams: int, rows: int, seconds: float, *, shortened: bool
    ) -> None:
        """Learns from a step of `rows` rows: `prompt` prompt tokens, one for each of `streams`, and
        drafts; `shortened`: it would have been several steps in one go if nobody drafted."""
        drafted = rows - prompt - streams
        costs = None if self.drafting is None or prompt else self.drafting.costs
        if drafted:
            if costs is not None:
                costs.drafted(streams, rows, seconds)
            return
        self.scheduler.observe(prompt, streams, seconds)
        if costs is not None:
            costs.single(streams, seconds)
            if not shortened:
                costs.wrote(streams, 1, seconds)
        if not prompt:
            self._step_seconds = seconds

    def _draft(self, pieces: list[Piece], drafts: Mapping[Sequence, Draft]) -> None:
        """Adds drafts to the pieces, as far as there are blocks for them that nobody will need
        soon."""
        blocks = self.blocks
        for piece in pieces:
            sequence = piece.sequence
            draft = drafts.get(sequence)
            if draft is None or piece.start + 1 < len(sequence.tokens):
                continue  # thrown out meanwhile, and perhaps back already
            room, width = len(sequence.blocks) * blocks.block_size - piece.start - 1, draft.width
            if room < width and blocks.free > len(self.scheduler.running):
                room = self.scheduler.room(sequence, width + 1) - 1
            piece.draft = draft.tokens[: min(room, width)]

    def _broken(self, piece: Piece, events: list[Event]) -> None:
        """Numbers of a piece are not finite. If there was a draft, that may be to blame: the
        block with its keys is computed again without it."""
        if piece.draft:
            self._forget_draft(piece.sequence)
        else:
            self._fail(piece.sequence, events)

    def _forget_draft(self, sequence: Sequence) -> None:
        """Cleans the block that a draft has broken, so that it is computed again."""
        if sequence.job.done:
            return
        size = self.backend.block_size
        self.backend.clear(sequence.blocks[sequence.computed // size :])
        sequence.computed -= sequence.computed % size
        if sequence.job.drafter is not None:
            sequence.job.drafter.stop()

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
        writers: list[tuple[Piece, GenerateJob]] = []
        rows: list[int] = []
        for piece, i in alive:
            sequence, job = piece.sequence, piece.sequence.job
            if sequence.samples and not sequence.left and not job.done:
                assert isinstance(job, GenerateJob)
                writers.append((piece, job))
                rows += range(i + piece.length - 1, i + piece.rows)
        if not writers:
            return
        logits = self.backend.logits(rows)
        drawn = self.backend.verify(
            logits, [job.sampler for _, job in writers], [piece.draft for piece, _ in writers]
        )
        found = self._chosen(logits, writers, drawn)
        left, at = self.backend.left(), 0
        for (piece, job), news in zip(writers, found, strict=True):
            if left and job.exit is not None:
                job.left += [left[row] for row in rows[at : at + len(news)]]
            at += len(piece.draft) + 1
            self._take(piece.sequence, job, news, events, computed=1)

    def _chosen(
        self,
        logits: Floats,
        writers: list[tuple[Piece, GenerateJob]],
        drawn: list[list[int]],
    ) -> list[list[tuple[int, float | None, Top]]]:
        """The tokens drawn for each, with log-probabilities where they were asked for."""
        found: list[list[tuple[int, float | None, Top]]] = [
            [(token, None, []) for token in tokens] for tokens in drawn
        ]
        asked: list[tuple[int, int, int, int]] = []  # row, writer, which of its tokens, top
        row = 0
        for w, ((piece, job), tokens) in enumerate(zip(writers, drawn, strict=True)):
            if job.wants_logprob():
                asked += [(row + i, w, i, job.top) for i, t in enumerate(tokens) if t >= 0]
            row += len(piece.draft) + 1
        if asked:
            values = self.backend.logprobs(
                logits if len(asked) == len(logits) else logits[[row for row, *_ in asked]],
                [drawn[w][i] for _, w, i, _ in asked],
                [top for *_, top in asked],
            )
            for (_, w, i, _), (logprob, top) in zip(asked, values, strict=True):
                found[w][i] = drawn[w][i], logprob, top
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


def _writer(sequence: Sequence, job: GenerateJob, draft: Draft | None, steps: int) -> Writer:
    """One of those who write `steps` tokens, or as many as are drafted for it."""
    width = draft.width if draft else 0
    return Writer(
        id=sequence.tokens[-1],
        position=sequence.computed,
        table=sequence.blocks,
        sampler=job.sampler,
        ends=job.eos,
        draft=draft.tokens[: steps * (width + 1)] if draft else (),
        width=width,
        exit=sequence.exit,
    )


def _starts(pieces: list[Piece]) -> list[int]:
    """The first row of each piece."""
    out, at = [], 0
    for piece in pieces:
        out.append(at)
        at += piece.rows
    return out

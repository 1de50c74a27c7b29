"""How far requests are drafted ahead in the next step: as far as it makes more tokens a second.

Drafts are proposed per request, with the chance that they are right (`proposals`); what a step
costs is learnt from steps (`costs`). Verifying a draft is exact: nothing here changes a token.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from everloop.engine.native.costs import ENOUGH, StepCosts
from everloop.engine.native.jobs import GenerateJob
from everloop.engine.native.pace import SLOWDOWN
from everloop.engine.native.proposals import (
    ENDLESS,
    LARGEST_VOCABULARY,
    Drafter,
    Experience,
    decode,
)
from everloop.engine.native.sequence import Draft, Sequence

MOST_DRAFTED = 31
"""Tokens drafted after a sequence's next one in one step, at most."""

LONGEST = 256
"""Tokens that are drafted for all steps of one go, at most."""

LOGITS_BYTES = 64 * 2**20
"""Logits that one step may have for drafts."""

MARGIN = 1.1
"""Drafting must look so many times as fast as writing plainly."""


def most_rows(vocabulary: int, streams: int) -> int:
    """Rows of a step in which so many streams write and draft, at most."""
    drafted = max(LOGITS_BYTES // (4 * vocabulary) - streams, 0)
    return streams + min(drafted, streams * MOST_DRAFTED)


@dataclass(slots=True)
class Plan:
    """What is drafted after the last tokens of which sequences; and, where nothing is, how many
    tokens may be written in one go."""

    drafts: dict[Sequence, Draft] = field(default_factory=dict)
    steps: int = ENDLESS


class Drafting:
    """Decides for all running sequences together."""

    def __init__(self, vocabulary: int) -> None:
        assert vocabulary <= LARGEST_VOCABULARY
        self.costs, self.experience = StepCosts(), Experience()
        self._most_rows = LOGITS_BYTES // (4 * vocabulary)

    def plan(self, running: Seq[Sequence]) -> Plan:
        """The next step's drafts. Whoever has none writes one token in it."""
        plan = Plan()
        streams = 0
        asked: list[tuple[Sequence, Drafter, str, list[float]]] = []
        for sequence in running:
            length = len(sequence.tokens)
            if length - sequence.computed != 1:
                continue
            streams += 1
            drafter = sequence.job.drafter
            if drafter is None or not sequence.samples:
                continue
            if length >= drafter.due:
                assert isinstance(sequence.job, GenerateJob)
                most = min(LONGEST, sequence.job.remaining - 1)
                draft, chances = drafter.propose(sequence.tokens, MOST_DRAFTED, most)
                if draft:
                    asked.append((sequence, drafter, draft, chances))
                    continue
                drafter.rest(length)
            plan.steps = min(plan.steps, drafter.patience(length))
        if asked:
            self._choose(plan, streams, asked)
        return plan

    def _choose(
        self,
        plan: Plan,
        streams: int,
        asked: list[tuple[Sequence, Drafter, str, list[float]]],
    ) -> None:
        plain = self.costs.plain(streams)
        if plain is None:
            plan.steps = ENOUGH
            return
        lengths = self.lengths(streams, plain, [chances for *_, chances in asked])
        for (sequence, drafter, draft, _), length in zip(asked, lengths, strict=True):
            tokens = len(sequence.tokens)
            if length:
                plan.drafts[sequence] = Draft(decode(draft), length)
                drafter.used(tokens)
                continue
            drafter.rest(tokens)
            plan.steps = min(plan.steps, drafter.patience(tokens))

    def lengths(self, streams: int, plain: float, chances: list[list[float]]) -> list[int]:
        """How many tokens of each proposal make the most tokens a second of all `streams`, none of
        which may become much slower for it; 0 where `plain` seconds a token are less."""
        # Later tokens of a proposal are never likelier than those before them, so that taking the
        # likeliest of all first takes the first ones of each.
        order = sorted(
            ((q, -n, i) for i, row in enumerate(chances) for n, q in enumerate(row)), reverse=True
        )
        base, row = self.costs.line(streams)
        tokens, seconds = float(streams), base + row * streams
        least = MARGIN * streams / plain
        best, taken = least, 0
        for n, (chance, *_) in enumerate(order[: max(self._most_rows - streams, 0)], 1):
            tokens += chance
            seconds += row
            if tokens > best * seconds:
                best, taken = tokens / seconds, n
        out, made = [0] * len(chances), [1.0] * len(chances)
        for chance, _, i in order[:taken]:
            out[i] += 1
            made[i] += chance
        for n in range(taken, 0, -1):
            slowest = min(made) if len(made) == streams else 1.0
            seconds = base + row * (streams + n)
            if seconds <= SLOWDOWN * plain * slowest:
                return out if sum(made) + streams - len(made) > least * seconds else [0] * len(out)
            chance, _, i = order[n - 1]
            out[i] -= 1
            made[i] -= chance
        return out

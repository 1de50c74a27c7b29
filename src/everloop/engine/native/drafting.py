"""How far requests are drafted ahead in the next step: as far as it makes more tokens a second.

Drafts are proposed per request, with the chance that they are right (`proposals`); what a step
costs is learnt from steps (`costs`). Verifying a draft is exact: nothing here changes a token.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from everloop.engine.native.costs import StepCosts
from everloop.engine.native.jobs import GenerateJob
from everloop.engine.native.proposals import LARGEST_VOCABULARY, Drafter, decode
from everloop.engine.native.sequence import Sequence

MOST_DRAFTED = 15
"""Tokens drafted after a sequence's next one in one step, at most."""

LOGITS_BYTES = 64 * 2**20
"""Logits that one step may have for drafts."""

MARGIN = 1.03
"""Drafting must look so many times as fast as writing plainly."""

MEASURED_STEPS = 4
"""Steps of plain writing to measure it."""


@dataclass(slots=True)
class Plan:
    """What is drafted after the last tokens of which sequences; and, where nothing is, how many
    tokens may be written in one go."""

    drafts: dict[Sequence, list[int]] = field(default_factory=dict)
    steps: int = 2**31


class Drafting:
    """Decides for all running sequences together."""

    def __init__(self, vocabulary: int) -> None:
        assert vocabulary <= LARGEST_VOCABULARY
        self.costs = StepCosts()
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
            if drafter is None:
                continue
            if length >= drafter.due:
                assert isinstance(sequence.job, GenerateJob)
                draft, chances = drafter.propose(
                    sequence.tokens, min(MOST_DRAFTED, sequence.job.remaining - 1)
                )
                if draft:
                    asked.append((sequence, drafter, draft, chances))
                    continue
                drafter.rest(length)
            if drafter.eager:
                plan.steps = min(plan.steps, drafter.due - length)
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
            plan.steps = min(plan.steps, MEASURED_STEPS)
            return
        lengths = self.lengths(streams, plain, [chances for *_, chances in asked])
        for (sequence, drafter, draft, _), length in zip(asked, lengths, strict=True):
            tokens = len(sequence.tokens)
            if length:
                plan.drafts[sequence] = decode(draft[:length])
                drafter.used(tokens)
                continue
            drafter.rest(tokens)
            if drafter.eager:
                plan.steps = min(plan.steps, drafter.due - tokens)

    def lengths(self, streams: int, plain: float, chances: list[list[float]]) -> list[int]:
        """How many tokens of each proposal make the most tokens a second of all `streams`; none
        where that is less than `plain` seconds a token."""
        # Later tokens of a proposal are never likelier than those before them, so that taking the
        # likeliest of all first takes the first ones of each.
        order = sorted(((q, i) for i, row in enumerate(chances) for q in row), reverse=True)
        base, row = self.costs.line(streams)
        tokens, seconds = float(streams), base + row * streams
        best, taken = MARGIN * streams / plain, 0
        for n, (chance, _) in enumerate(order[: max(self._most_rows - streams, 0)], 1):
            tokens += chance
            seconds += row
            if tokens > best * seconds:
                best, taken = tokens / seconds, n
        out = [0] * len(chances)
        for _, i in order[:taken]:
            out[i] += 1
        return out

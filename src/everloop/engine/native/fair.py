"""Whose turn it is among those who wait."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterator

from everloop.engine.native.sequence import Sequence

WINDOW = 16384
"""Tokens served to anybody after which what a tenant got counts half."""


class FairQueue:
    """Waiting sequences: first come first served within a tenant, and between tenants the one that
    lately got least, counted in tokens.

    Nobody starves: a tenant that waits is charged nothing, while every turn makes another one's
    account grow; and one that comes begins no lower than those who wait.
    """

    def __init__(self) -> None:
        self._queues: dict[str, OrderedDict[Sequence, None]] = {}
        self._served: dict[str, float] = {}
        self._scale = 1.0  # instead of shrinking every account, later tokens count more
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sequence]:
        for queue in self._queues.values():
            yield from queue

    @property
    def tenants(self) -> int:
        """How many of them wait."""
        return len(self._queues)

    def add(self, sequence: Sequence, *, first: bool = False) -> None:
        """Queues a sequence behind, or before, all others of its tenant."""
        tenant = sequence.job.tenant
        queue = self._queues.get(tenant)
        if queue is None:
            if self._queues:
                least = min(self._served.get(other, 0.0) for other in self._queues)
                self._served[tenant] = max(self._served.get(tenant, 0.0), least)
            queue = self._queues[tenant] = OrderedDict()
        queue[sequence] = None
        if first:
            queue.move_to_end(sequence, last=False)
        self._count += 1

    def remove(self, sequence: Sequence) -> None:
        """Takes a sequence out."""
        tenant = sequence.job.tenant
        queue = self._queues[tenant]
        del queue[sequence]
        self._count -= 1
        if not queue:
            del self._queues[tenant]

    def turns(self, skip: Container[str] = ()) -> Iterator[Sequence]:
        """Everyone who waits, whose turn it is first; stop before changing anything."""
        # Python sorts stably, so that of two equal ones the tenant comes first that waited first.
        for tenant in sorted(self._queues, key=lambda t: self._served.get(t, 0.0)):
            if tenant not in skip:
                yield from self._queues[tenant]

    def charge(self, tenant: str, tokens: int) -> None:
        """Books tokens that were or will be computed for a tenant."""
        self._served[tenant] = self._served.get(tenant, 0.0) + tokens * self._scale
        self._scale *= 2.0 ** (tokens / WINDOW)
        if self._scale > 2.0**64:
            small = {t: s / self._scale for t, s in self._served.items()}
            self._served = {t: s for t, s in small.items() if s >= 1.0}
            self._scale = 1.0

from __future__ import annotations

import pytest

from everloop.engine.native.fair import WINDOW, FairQueue
from tests.engine.sequences import sequence


def names(queue: FairQueue, **options: object) -> list[str]:
    return [one.job.tenant for one in queue.turns(**options)]  # type: ignore[arg-type]


def test_within_a_tenant_first_come_is_first_served() -> None:
    queue = FairQueue()
    made = [sequence([i]) for i in range(4)]
    for one in made[:3]:
        queue.add(one)
    queue.add(made[3], first=True)
    assert list(queue.turns()) == [made[3], *made[:3]] == list(queue)
    queue.remove(made[0])
    assert list(queue.turns()) == [made[3], made[1], made[2]]
    assert (len(queue), queue.tenants) == (3, 1)


def test_the_tenant_with_least_is_first_and_equals_in_order_of_arrival() -> None:
    queue = FairQueue()
    queue.charge("b", 10)
    for tenant in "bacab":
        queue.add(sequence([1], tenant=tenant))
    assert names(queue) == ["b", "b", "a", "a", "c"]  # who comes begins no lower
    queue.charge("b", 1)
    assert names(queue) == ["a", "a", "c", "b", "b"]
    queue.charge("a", 2)
    assert names(queue) == ["c", "b", "b", "a", "a"]
    assert names(queue, skip={"c", "a"}) == ["b", "b"]


def test_what_was_long_ago_counts_less() -> None:
    queue = FairQueue()
    queue.charge("a", 1000)
    for _ in range(100):
        queue.charge("other", WINDOW // 10)
    queue.charge("b", 10)
    for tenant in "ab":
        queue.add(sequence([1], tenant=tenant))
    queue.charge("a", 5)
    assert names(queue) == ["a", "b"]  # for 5 and 1, not for 1005
    queue.charge("a", 5)
    assert names(queue) == ["b", "a"]


def test_the_books_of_many_tenants_are_closed() -> None:
    queue = FairQueue()
    for i in range(100_000):
        queue.charge(f"tenant {i}", 100)
    assert len(queue._served) < 80 * WINDOW / 100
    assert max(queue._served.values()) < float("inf")
    queue.add(sequence([1], tenant="x"))
    assert names(queue) == ["x"]


@pytest.mark.parametrize("greedy", [1, 5000])
def test_turns_come_round_in_tokens(greedy: int) -> None:
    queue = FairQueue()
    for tenant in ("greedy", "modest"):
        for _ in range(400):
            queue.add(sequence([1], tenant=tenant))
    taken = {"greedy": 0, "modest": 0}
    while min(taken.values()) < 20_000:
        one = next(queue.turns())
        tokens = greedy if one.job.tenant == "greedy" else 200
        taken[one.job.tenant] += tokens
        queue.charge(one.job.tenant, tokens)
        queue.remove(one)
        queue.add(one)
        assert abs(taken["greedy"] - taken["modest"]) <= 3 * max(greedy, 200)

"""Shared prefixes with a real model: what is computed once, and that no answer changes a bit."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from everloop.engine.native.core import Core
from everloop.engine.native.jobs import EmbedJob, Event, GenerateJob, ScoreJob
from everloop.model.tokenizer import Tokenizer
from tests.engine.conftest import drain, generate_job, ids_of, poison_token
from tests.engine.sequences import check
from tests.engine.test_core import hot

MakeCore = Callable[..., Core]
TEXT = "今天天气怎么样？ The weather is fine. 我们去公园走走吧。 Take an umbrella. 你好！ "


@pytest.fixture
def text(tokenizer: Tokenizer) -> list[int]:
    """A prompt of several blocks that ends within one."""
    return (tokenizer.encode(TEXT) * 3)[:140]


def result(events: list[Event]) -> list[object]:
    return [token for event in events for token in event.tokens or ()]


def cached(events: list[Event]) -> int:
    usage = events[-1].usage
    assert usage is not None
    return usage[2]


def whole(core: Core, tokens: int) -> int:
    """`tokens` in whole blocks."""
    return tokens // core.blocks.block_size * core.blocks.block_size


def count_computed(core: Core, monkeypatch: pytest.MonkeyPatch, before: int) -> list[int]:
    """Collects how many tokens at positions below `before` are computed in each step."""
    counts: list[int] = []
    advance = core.scheduler.advance

    def counted(pieces: list[object]) -> None:
        counts.append(
            sum(max(min(p.start + p.length, before) - p.start, 0) for p in pieces)  # type: ignore[attr-defined]
        )
        advance(pieces)  # type: ignore[arg-type]

    monkeypatch.setattr(core.scheduler, "advance", counted)
    return counts


@pytest.mark.parametrize("chunk", [5, 64, 1000])
@pytest.mark.parametrize("options", [{}, {"choice": hot(top_p=0.9), "seed": 5, "logprobs": 2}])
def test_the_same_answer_after_a_hit(
    make_core: MakeCore,
    text: list[int],
    table: list[bytes],
    chunk: int,
    options: dict[str, object],
) -> None:
    def ask(core: Core, prompt: list[int]) -> list[Event]:
        return drain(core, generate_job(1, prompt, table, 40, **options))[1]

    core = make_core(chunk=chunk)
    first = ask(core, text)
    assert cached(first) == 0
    again = ask(core, text)
    assert cached(again) == whole(core, len(text) - 1)
    assert result(again) == result(first)
    # The next turn of a conversation begins with the prompt and the answer before.
    longer = text + ids_of(first) + text[:30]
    turn = ask(core, longer)
    assert cached(turn) == whole(core, len(text) + len(ids_of(first)) - 1)
    assert result(turn) == result(ask(make_core(chunk=chunk), longer))
    # And a text that only begins alike.
    other = text[:75] + text[:20]
    assert result(ask(core, other)) == result(ask(make_core(), other))
    assert core.blocks.used == 0
    check(core.scheduler)


def test_many_answers_compute_their_prompt_once(
    make_core: MakeCore, text: list[int], table: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    core = make_core()
    shared = whole(core, len(text) - 1)
    counts = count_computed(core, monkeypatch, len(text))
    jobs = [generate_job(i, text, table, 10, choice=hot(), seed=i) for i in range(8)]
    events = drain(core, *jobs)
    assert sum(counts) == len(text) + 7 * (len(text) - shared)
    assert [cached(events[i]) for i in range(8)] == [0] + [shared] * 7
    for i in (0, 3, 7):
        alone = drain(make_core(), generate_job(i, text, table, 10, choice=hot(), seed=i))
        assert ids_of(events[i]) == ids_of(alone[i])


def test_many_questions_on_one_text_read_it_once(
    make_core: MakeCore, text: list[int], table: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    core = make_core()
    shared = whole(core, len(text))
    counts = count_computed(core, monkeypatch, 10**9)
    scores = [ScoreJob(i, prompt=[*text, i, i + 1], continuations=[[7, 8], [9]]) for i in range(4)]
    answers = [generate_job(10 + i, [*text, 50 + i], table, 1) for i in range(4)]
    events = drain(core, *scores, *answers)
    each = len(text) - shared
    assert sum(counts) == shared + 4 * (each + 3 + each + 2) + 4 * (each + 1)
    for i in range(4):
        [alone] = drain(make_core(), ScoreJob(i, prompt=[*text, i, i + 1], continuations=[[9]]))[i]
        [beside] = events[i]
        assert beside.scores is not None
        assert beside.scores[1:] == alone.scores


def test_another_tenant_computes_everything_itself(
    make_core: MakeCore, text: list[int], table: list[bytes]
) -> None:
    core = make_core()
    drain(core, generate_job(1, text, table, 5, tenant="a"))
    together = drain(
        core,
        generate_job(2, text, table, 5, tenant="b"),
        generate_job(3, text, table, 5, tenant="a"),
        generate_job(4, text, table, 5),
    )
    assert [cached(together[i]) for i in (2, 3, 4)] == [0, whole(core, len(text) - 1), 0]
    assert ids_of(together[2]) == ids_of(together[3]) == ids_of(together[4])


def test_what_needs_hidden_states_computes_them(
    make_core: MakeCore, text: list[int], table: list[bytes]
) -> None:
    def echo(core: Core) -> list[Event]:
        return drain(core, generate_job(1, text, table, 5, echo=True, logprobs=1))[1]

    def embed(core: Core) -> list[list[float]] | None:
        return drain(core, EmbedJob(1, texts=[text, text[:50]]))[1][-1].vectors

    def score(core: Core) -> list[list[float]] | None:
        job = ScoreJob(1, prompt=text[:70], continuations=[text[70:], text[70:]])
        return drain(core, job)[1][-1].scores

    core = make_core(chunk=33)
    drain(core, generate_job(1, text, table, 5))
    assert result(echo(core)) == result(echo(make_core()))
    assert cached(echo(core)) == 0
    assert embed(core) == embed(make_core())
    assert score(core) == score(make_core())
    assert cached(drain(core, generate_job(1, text, table, 5))[1]) == whole(core, len(text) - 1)
    check(core.scheduler)


def mixture(count: int, text: list[int], table: list[bytes], seed: int) -> list[GenerateJob]:
    """Jobs of a few tenants, many of which begin alike."""
    rng = random.Random(seed)
    made = []
    for i in range(count):
        prompt = text[: rng.choice([20, 64, 70, 100, 140])]
        prompt = prompt + [rng.randrange(300) for _ in range(rng.choice([0, 1, 2, 40]))]
        made.append(
            generate_job(
                i,
                prompt,
                table,
                max_tokens=rng.randint(1, 70),
                choice=hot(top_k=9),
                seed=i % 3,
                tenant=rng.choice("ab"),
            )
        )
    return made


@pytest.mark.parametrize("tokens", [288, 1024])
def test_whatever_runs_beside_it_an_answer_is_the_same(
    make_core: MakeCore, text: list[int], table: list[bytes], tokens: int
) -> None:
    jobs = mixture(18, text, table, seed=tokens)
    core = make_core(tokens=tokens, max_running=6, chunk=48)
    got: dict[int, list[int]] = {job.key: [] for job in jobs}
    waiting = list(jobs)
    steps = 0
    while waiting or core.busy:
        if waiting and steps % 3 == 0:
            core.submit(waiting.pop())
        for event in core.step():
            got[event.key] += ids_of([event])
        steps += 1
        check(core.scheduler)
    assert core.blocks.used == 0
    alone = make_core()
    for job in mixture(18, text, table, seed=tokens):
        job.tenant = f"alone {job.key}"
        assert ids_of(drain(alone, job)[job.key]) == got[job.key]


def test_all_that_broke_in_one_step_is_cleaned(
    make_core: MakeCore, text: list[int], table: list[bytes]
) -> None:
    core = make_core()
    want = ids_of(drain(core, generate_job(1, [5], table, 20))[1])
    poison_token(core.backend, 299)
    embed = EmbedJob(2, texts=[[299], [5, 299, 6], text[:100], [299, 7]])
    score = ScoreJob(2, prompt=text[:40], continuations=[[1, 299, 6], [2, 299, 8], [9]])
    for broken in (embed, score):
        assert "not finite" in (drain(core, broken)[2][-1].error or "")
        # Their blocks are given next, with NaN behind what is written into them at first.
        jobs = [generate_job(10 + i, [5], table, 20) for i in range(8)]
        events = drain(core, *jobs)
        assert [ids_of(events[job.key]) for job in jobs] == [want] * 8
        check(core.scheduler)

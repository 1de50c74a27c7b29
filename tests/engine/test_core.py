"""The synchronous engine: what comes out, and that nothing is left behind."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everloop.engine.native.backend import Backend, Choice
from everloop.engine.native.core import Core
from everloop.engine.native.jobs import EmbedJob, GenerateJob, ScoreJob
from everloop.model.tokenizer import Tokenizer
from everloop.model.transformer import Transformer
from tests.engine.conftest import BLOCK, MakeBackend, drain, generate_job, ids_of, poison_token

MakeCore = Callable[..., Core]
PROMPT = "今天天气怎么样？ The weather is fine."


@pytest.fixture
def prompt(tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode(PROMPT)


def hot(**options: object) -> Choice:
    return Choice(temperature=1.0, **options)  # type: ignore[arg-type]


def others(count: int, table: list[bytes], seed: int = 0) -> list[GenerateJob]:
    """Random requests of all sorts with keys from 100 on."""
    rng = random.Random(seed)
    made = []
    for i in range(count):
        ids = [rng.randrange(300) for _ in range(rng.randint(1, 120))]
        choice = rng.choice(
            [hot(), Choice(temperature=0.0), hot(top_p=0.8), hot(top_k=7, frequency_penalty=0.5)]
        )
        made.append(
            generate_job(
                100 + i,
                ids,
                table,
                max_tokens=rng.randint(1, 40),
                choice=choice,
                seed=rng.randrange(2**63),
                logprobs=rng.choice([None, 0, 3]),
            )
        )
    return made


@pytest.mark.parametrize(
    ("chunk", "choice"),
    [(5, {}), (64, {"top_p": 0.9}), (1000, {"min_p": 0.02, "presence_penalty": 0.5})],
)
def test_a_seeded_request_is_the_same_alone_and_among_15_others(
    make_core: MakeCore,
    prompt: list[int],
    table: list[bytes],
    chunk: int,
    choice: dict[str, float],
) -> None:
    def run(core: Core, neighbours: list[GenerateJob]) -> list[object]:
        job = generate_job(1, prompt, table, 30, choice=hot(**choice), seed=7, logprobs=2)
        events = drain(core, *neighbours[:8], job, *neighbours[8:])[1]
        return [(t, lp, top) for e in events for t, lp, top in e.tokens or ()]

    alone = run(make_core(), [])
    assert len(alone) > 5
    assert run(make_core(chunk=chunk), others(15, table)) == alone
    assert run(make_core(chunk=chunk, max_running=3), others(15, table, seed=1)) == alone
    # So few blocks that sequences are thrown out and computed again.
    assert run(make_core(chunk=chunk, tokens=288), others(15, table, seed=2)) == alone


def test_seeds_differ_and_repeat(
    make_core: MakeCore, prompt: list[int], table: list[bytes]
) -> None:
    core = make_core()
    runs = [
        ids_of(drain(core, generate_job(1, prompt, table, 20, choice=hot(), seed=seed))[1])
        for seed in (1, 2, 1)
    ]
    assert runs[0] == runs[2] != runs[1]


def test_sampled_tokens_follow_the_models_distribution(
    exact_core: MakeCore, prompt: list[int], table: list[bytes], model: Transformer
) -> None:
    core = exact_core(max_running=64)
    n = 600
    jobs = [generate_job(i, prompt, table, 1, choice=hot(top_k=4), seed=i) for i in range(n)]
    events = drain(core, *jobs)
    tokens = [ids_of(events[i]) for i in range(n)]
    with torch.inference_mode():
        best = model(torch.tensor([prompt]))[0, -1].topk(4)
    probabilities = best.values.softmax(-1).tolist()
    statistic = sum(
        (tokens.count([t]) - n * p) ** 2 / (n * p)
        for t, p in zip(best.indices.tolist(), probabilities, strict=True)
    )
    assert statistic < 16.3  # chi-square, 3 degrees of freedom, p = 0.001


def test_max_tokens_and_usage(make_core: MakeCore, prompt: list[int], table: list[bytes]) -> None:
    events = drain(make_core(), generate_job(1, prompt, table, 9))[1]
    assert events[-1].finish == "length"
    assert events[-1].usage == (len(prompt), 9, 0)
    assert len(ids_of(events)) == 9
    assert all(e.finish is None and e.usage is None for e in events[:-1])


def test_an_end_token_ends_and_is_counted_but_not_shown(
    make_core: MakeCore, prompt: list[int], table: list[bytes]
) -> None:
    core = make_core()
    free = ids_of(drain(core, generate_job(1, prompt, table, 12))[1])
    eos = free[5]
    first = free.index(eos)
    events = drain(core, generate_job(1, prompt, table, 12, eos=frozenset({eos})))[1]
    assert ids_of(events) == free[:first]
    assert events[-1].finish == "stop"
    assert events[-1].usage is not None
    assert events[-1].usage[:2] == (len(prompt), first + 1)


def test_stop_string_across_tokens_ends_the_text_before_it(
    make_core: MakeCore, prompt: list[int], table: list[bytes]
) -> None:
    core = make_core()
    free = b"".join(table[t] for t in ids_of(drain(core, generate_job(1, prompt, table, 60))[1]))
    text = free.decode(errors="replace")
    clean = [i for i in range(4, len(text) - 4) if "\ufffd" not in text[i - 1 : i + 3]]
    stop = text[clean[0] : clean[0] + 3]
    events = drain(core, generate_job(1, prompt, table, 60, stop=[stop]))[1]
    assert "".join(e.text for e in events) == text[: text.index(stop)]
    assert events[-1].finish == "stop"
    assert core.blocks.used == 0


def test_logprobs_are_the_models_own(
    exact_core: MakeCore, prompt: list[int], table: list[bytes], model: Transformer
) -> None:
    job = generate_job(1, prompt, table, 15, choice=hot(logit_bias={5: 3.0}), logprobs=4)
    tokens = [t for e in drain(exact_core(), job)[1] for t in e.tokens or ()]
    ids = [t for t, _, _ in tokens]
    with torch.inference_mode():
        want = model(torch.tensor([prompt + ids]))[0].log_softmax(-1)[len(prompt) - 1 : -1]
    for row, (token, logprob, top) in zip(want, tokens, strict=True):
        assert logprob == pytest.approx(row[token].item(), abs=1e-4)
        assert [i for i, _ in top] == row.topk(4).indices.tolist()
        assert [v for _, v in top] == pytest.approx(row.topk(4).values.tolist(), abs=1e-4)


@pytest.mark.parametrize("max_tokens", [0, 3])
def test_echo_with_logprobs(
    exact_core: MakeCore,
    prompt: list[int],
    table: list[bytes],
    model: Transformer,
    max_tokens: int,
) -> None:
    job = generate_job(1, prompt, table, max_tokens, echo=True, logprobs=1)
    events = drain(exact_core(chunk=7), job)[1]
    assert events[0].text.startswith(PROMPT)
    tokens = [t for e in events for t in e.tokens or ()]
    assert [t for t, _, _ in tokens[: len(prompt)]] == prompt
    assert tokens[0][1] is None
    assert events[-1].usage == (len(prompt), max_tokens, 0)
    with torch.inference_mode():
        want = model(torch.tensor([prompt]))[0].log_softmax(-1)
    for i, (token, logprob, top) in enumerate(tokens[1 : len(prompt)]):
        assert logprob == pytest.approx(want[i, token].item(), abs=1e-4)
        assert top[0][0] == want[i].argmax().item()


def test_scores_are_sums_of_the_models_logprobs(
    exact_core: MakeCore, tokenizer: Tokenizer, model: Transformer
) -> None:
    prompt = tokenizer.encode(PROMPT * 4)
    assert len(prompt) > 2 * BLOCK
    texts = [tokenizer.encode(t) for t in ("好", "天气很好，我们去公园", " rain", "")]
    core = exact_core(chunk=23)
    [event] = drain(core, ScoreJob(1, prompt=prompt, continuations=texts))[1]
    assert event.scores is not None
    for text, scores in zip(texts, event.scores, strict=True):
        with torch.inference_mode():
            rows = model(torch.tensor([prompt + text]))[0].log_softmax(-1)
        want = [rows[len(prompt) - 1 + i, token].item() for i, token in enumerate(text)]
        assert scores == pytest.approx(want, abs=1e-4)
    assert core.blocks.used == 0
    # The same bits with one continuation at a time, where nothing is shared.
    for text, scores in zip(texts, event.scores, strict=True):
        [single] = drain(core, ScoreJob(2, prompt=prompt, continuations=[text]))[2]
        assert single.scores == [scores]


def test_the_prompt_of_many_continuations_is_computed_once(
    make_core: MakeCore, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    core = make_core()
    rows = 0
    forward = core.backend.forward

    def counted(batch: list[object]) -> list[bool]:
        nonlocal rows
        rows += sum(len(r.ids) for r in batch)  # type: ignore[attr-defined]
        return forward(batch)  # type: ignore[arg-type]

    monkeypatch.setattr(core.backend, "forward", counted)
    size = core.backend.block_size
    long = (prompt * 5)[: 3 * size + 1]
    texts = [[i, i] for i in range(10)]
    drain(core, ScoreJob(1, prompt=long, continuations=texts))
    assert rows == 3 * size + 10 * 2


@pytest.mark.parametrize("chunk", [3, 64])
def test_embeddings_are_mean_hidden_states_of_length_one(
    exact_core: MakeCore, tokenizer: Tokenizer, model: Transformer, chunk: int
) -> None:
    texts = [tokenizer.encode(t) for t in ("今天天气很好", "a", "The park is near. " * 6)]
    [event] = drain(exact_core(chunk=chunk), EmbedJob(1, texts=texts))[1]
    assert event.vectors is not None
    for text, vector in zip(texts, event.vectors, strict=True):
        with torch.inference_mode():
            want = model.hidden(torch.tensor([text]))[0].mean(0)
        assert math.hypot(*vector) == pytest.approx(1)
        assert vector == pytest.approx((want / want.norm()).tolist(), abs=1e-5)
    assert event.vectors == drain(exact_core(), EmbedJob(1, texts=texts))[1][0].vectors


def test_cancel_frees_the_blocks_at_once(
    make_core: MakeCore, prompt: list[int], table: list[bytes]
) -> None:
    core = make_core()
    core.submit(generate_job(1, prompt, table, 200))
    for _ in range(5):
        core.step()
    assert core.blocks.used > 0
    used = core.cancel(1)
    assert used is not None
    assert used[0] == len(prompt)
    assert 5 <= used[1] < 200  # as many as fit in a go
    assert core.blocks.used == 0
    assert not core.busy
    assert core.cancel(1) is None
    assert core.step() == []


def test_a_hundred_cancels_leave_nothing(
    make_core: MakeCore, prompt: list[int], table: list[bytes]
) -> None:
    core = make_core(tokens=384, max_running=8)
    rng = random.Random(0)
    alive: list[int] = []
    for key in range(100):
        core.submit(generate_job(key, prompt, table, 50, choice=hot(), seed=key))
        alive.append(key)
        if rng.random() < 0.5:
            core.step()
        while len(alive) > 12:
            core.cancel(alive.pop(rng.randrange(len(alive))))
    for key in alive:
        core.cancel(key)
    assert core.blocks.used == 0
    assert not core.scheduler.running
    assert not core.scheduler.waiting
    assert not core.busy


@pytest.fixture(scope="module")
def small_backend(make_backend: MakeBackend) -> Backend:
    return make_backend(288)


@given(st.lists(st.sampled_from("ggseceXxx..."), max_size=40), st.randoms())
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_order_of_work_leaves_no_block(
    small_backend: Backend, table: list[bytes], steps: list[str], rng: random.Random
) -> None:
    core = Core(small_backend, max_running=5, chunk=20)
    alive: set[int] = set()
    for key, step in enumerate(steps):
        ids = [rng.randrange(300) for _ in range(rng.randint(1, 150))]
        if step == "g":
            core.submit(generate_job(key, ids, table, rng.randint(1, 100), choice=hot(), seed=key))
        elif step == "s":
            texts = [[1] * rng.randint(1, 30) for _ in range(rng.randint(0, 5))]
            core.submit(ScoreJob(key, prompt=ids, continuations=texts))
        elif step == "e":
            core.submit(EmbedJob(key, texts=[ids, ids[:3]]))
        elif step == "c" and alive:
            core.cancel(alive.pop())
        else:
            alive -= {e.key for e in core.step() if e.finish or e.scores or e.vectors}
            continue
        if step != "c":
            alive.add(key)
    drain(core)
    assert core.blocks.used == 0


def test_nan_ends_that_request_and_no_other(
    make_core: MakeCore, prompt: list[int], table: list[bytes]
) -> None:
    core = make_core(tokens=320)
    want = ids_of(drain(core, generate_job(1, prompt, table, 30))[1])
    poison = 299
    poison_token(core.backend, poison)
    bad = [generate_job(10 + i, [poison, *prompt][:n], table, 30) for i, n in enumerate((1, 9, 40))]
    score = ScoreJob(20, prompt=prompt, continuations=[[1, 2], [3, poison, 4]])
    embed = EmbedJob(21, texts=[prompt, [poison]])
    events = drain(core, bad[0], generate_job(1, prompt, table, 30), *bad[1:], score, embed)
    assert ids_of(events[1]) == want
    for key in (10, 11, 12, 20, 21):
        assert "not finite" in (events[key][-1].error or "")
    assert core.blocks.used == 0
    # The blocks that held NaN are clean for whoever gets them next.
    again = [generate_job(30 + i, prompt, table, 30) for i in range(6)]
    events = drain(core, *again)
    assert all(ids_of(events[30 + i]) == want for i in range(6))

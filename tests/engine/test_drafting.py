"""Drafting changes no token, leaks no block, and counts what was predicted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from everloop.engine.native.backend import Backend, Choice, Rows, Writer, Written
from everloop.engine.native.core import Core
from everloop.engine.native.drafting import MOST_DRAFTED
from everloop.engine.native.jobs import Event, GenerateJob
from everloop.engine.native.sequence import Sequence
from everloop.model.tokenizer import Tokenizer
from everloop.model.transformer import Transformer
from tests.engine.conftest import MakeBackend, drain, generate_job, ids_of, poison_token
from tests.engine.sequences import check
from tests.engine.test_core import hot

MakeCore = Callable[..., Core]
PROMPT = "今天天气怎么样？ The weather is fine."

CHOICES = (
    Choice(temperature=0.0),
    hot(),
    hot(top_p=0.8),
    hot(top_k=5, frequency_penalty=0.7),
    hot(min_p=0.05, presence_penalty=0.4, repetition_penalty=1.2),
    Choice(temperature=0.0, repetition_penalty=1.3),
    Choice(temperature=0.5, logit_bias={7: 4.0}),
)


@pytest.fixture
def prompt(tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode(PROMPT)


def always(core: Core, rng: random.Random | None = None) -> list[int]:
    """Makes a core draft whatever is proposed, or a random part of it; returns how much of each
    draft will be verified, in the first step if there are several."""
    assert core.drafting is not None
    verified: list[int] = []

    def lengths(streams: int, plain: float, chances: list[list[float]]) -> list[int]:
        return [len(row) if rng is None else rng.randint(0, len(row)) for row in chances]

    verify, write = core.backend.verify, core.backend.write

    def writes(writers: list[Writer], steps: int) -> Written:
        verified.extend(min(w.width, len(w.draft)) for w in writers if w.draft)
        return write(writers, steps)

    def noted(logits: object, samplers: object, drafts: list[list[int]]) -> list[list[int]]:
        verified.extend(len(draft) for draft in drafts if draft)
        return verify(logits, samplers, drafts)  # type: ignore[arg-type]

    core.drafting.lengths = lengths  # type: ignore[method-assign]
    core.drafting.costs.plain = lambda streams: 1.0  # type: ignore[method-assign]
    core.backend.verify = noted  # type: ignore[method-assign,assignment]
    core.backend.write = writes  # type: ignore[method-assign,assignment]
    return verified


@dataclass
class Case:
    """One request, and what it came to."""

    prompt: list[int]
    options: dict[str, object]
    max_tokens: int
    tokens: list[int] = field(default_factory=list)

    def job(self, key: int, table: list[bytes]) -> GenerateJob:
        return generate_job(key, self.prompt, table, self.max_tokens, **self.options)


def requests(count: int, rng: random.Random) -> list[Case]:
    """Prompts that repeat themselves more or less, sampled in all ways."""
    cases = []
    for i in range(count):
        part = [rng.randrange(300) for _ in range(rng.randint(1, 30))]
        choice = CHOICES[i % len(CHOICES)]
        if choice.repetition_penalty != 1.0:
            choice = Choice(
                temperature=choice.temperature,
                repetition_penalty=choice.repetition_penalty,
                presence_penalty=choice.presence_penalty,
                min_p=choice.min_p,
                prompt=frozenset(part),
            )
        options: dict[str, object] = {
            "choice": choice,
            "seed": rng.randrange(2**63),
            "logprobs": rng.choice([None, None, None, 0, 3]),
            "stream": rng.random() < 0.8,
        }
        cases.append(Case(part * rng.randint(1, 3), options, rng.randint(1, 45)))
    return cases


def edited(tokens: list[int], rng: random.Random) -> list[int]:
    """Tokens with a few of them replaced, left out, inserted or moved."""
    out = list(tokens)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        new = [rng.randrange(300) for _ in range(rng.randint(0, 3))]
        out[at : at + rng.randint(0, 3)] = new
    return out


def predictions(tokens: list[int], rng: random.Random) -> list[int]:
    """A prediction of `tokens`: right, too long, too short, partly right or wrong."""
    return rng.choice(
        [
            list(tokens),
            tokens + [rng.randrange(300) for _ in range(60)],
            tokens[: len(tokens) // 2],
            tokens[len(tokens) // 3 :],
            edited(tokens, rng),
            edited(edited(tokens, rng), rng),
            [rng.randrange(300) for _ in range(rng.randint(1, 40))],
            tokens[:3] * 20,
        ]
    )


@pytest.mark.parametrize("seed", range(6))
def test_several_steps_of_drafts_in_compiled_code_do_what_python_does(
    make_backend: MakeBackend, prompt: list[int], seed: int
) -> None:
    rng = random.Random(seed)
    count, size = rng.randint(1, 6), 40
    backend, other = make_backend(4096), make_backend(4096)
    wide = -(-(len(prompt) + 4 * size) // backend.block_size)
    tables = [range(i * wide, (i + 1) * wide) for i in range(count)]

    def writers(on: Backend, drafts: list[list[int]], ends: frozenset[int]) -> list[Writer]:
        on.forward([Rows(ids=prompt, start=0, table=table) for table in tables])
        return [
            Writer(
                id=prompt[i],
                position=len(prompt),
                table=tables[i],
                sampler=on.sampler(fresh(CHOICES[(seed + i) % len(CHOICES)]), seed + i),
                ends=ends,
                draft=drafts[i],
                width=len(drafts[i]) and 1 + (seed * 5 + 3 * i) % 13,
            )
            for i in range(count)
        ]

    nothing: frozenset[int] = frozenset()
    plain = backend.write(writers(backend, [[]] * count, nothing), size)
    assert (plain.steps, plain.rows) == (size, size * count)
    drafts = [
        edited(tokens, rng) if rng.random() < 0.7 else tokens if rng.random() < 0.8 else []
        for tokens in plain.tokens
    ]
    for ends in (nothing, frozenset([plain.tokens[0][size // 2]])):
        got = backend.write(writers(backend, drafts, ends), 6)
        assert got == Backend.write(other, writers(other, drafts, ends), 6)
        for tokens, want in zip(got.tokens, plain.tokens, strict=True):
            assert tokens == want[: len(tokens)]
            assert tokens


def fresh(choice: object) -> Choice:
    """PyTorch's sampler counts its output in the choice."""
    assert isinstance(choice, Choice)
    return Choice(**{n: getattr(choice, n) for n in Choice.__slots__ if n != "output"})


def run(core: Core, cases: list[Case], table: list[bytes]) -> list[list[object]]:
    """What each request gets, the usage of its prediction left out."""
    for case in cases:
        case.options["choice"] = fresh(case.options["choice"])
    events = drain(core, *(case.job(i, table) for i, case in enumerate(cases)))
    assert core.blocks.used == 0
    check(core.scheduler)
    out: list[list[object]] = []
    for i, case in enumerate(cases):
        last = events[i][-1]
        assert last.usage is not None
        case.tokens = ids_of(events[i])
        told = [token for event in events[i] for token in event.tokens or ()]
        text = "".join(event.text for event in events[i])
        # What is cached depends on who ran before, so on the order in which others end.
        out.append([told, text, last.finish, last.usage[:2]])
    return out


@pytest.mark.parametrize(
    "options",
    [{"chunk": 40}, {"chunk": 7, "max_running": 5}, {"tokens": 352, "max_running": 6}],
    ids=["many", "few", "thrown-out"],
)
def test_every_token_is_the_same_with_and_without_drafts(
    make_core: MakeCore, table: list[bytes], options: dict[str, int]
) -> None:
    rng = random.Random(repr(options))
    cases = requests(50, rng)
    plain = make_core(**options, drafting=False)
    want = run(plain, cases, table)
    for case in cases:
        case.options["prediction"] = predictions(case.tokens, rng)
    drafting = make_core(**options)
    verified = always(drafting, rng)
    assert run(drafting, cases, table) == want
    assert len(verified) > 100
    assert 20 < max(verified) <= MOST_DRAFTED
    # And with ends where nobody had planned them: in the middle of a draft.
    for case in cases:
        text = b"".join(table[t] for t in case.tokens).decode(errors="ignore")
        at = rng.randrange(len(text) + 1)
        case.options["stop"] = [text[at : at + rng.randint(1, 3)]] if text[at:] else []
        case.options["eos"] = frozenset(rng.sample(case.tokens, min(1, len(case.tokens))))
        case.options["prediction"] = case.tokens + [1, 2, 3] * 10
    ended = run(plain, cases, table)
    assert sum(result[2] == "stop" for result in ended) > 30
    for case, result in zip(cases, want, strict=True):
        told = result[0]
        assert isinstance(told, list)
        case.options["prediction"] = [token for token, *_ in told] + [1, 2, 3] * 10
    assert run(drafting, cases, table) == ended


def test_the_controllers_own_choice_changes_nothing_either(
    make_core: MakeCore, table: list[bytes]
) -> None:
    rng = random.Random(5)
    cases = requests(40, rng)
    want = run(make_core(drafting=False), cases, table)
    for case in cases:
        case.options["prediction"] = predictions(case.tokens, rng)
    assert run(make_core(), cases, table) == want


def test_drafts_keep_the_models_distribution(
    exact_core: MakeCore, prompt: list[int], table: list[bytes], model: Transformer
) -> None:
    """Three tokens, the two likeliest at each: eight outcomes. The likeliest is drafted."""
    outcomes: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        grown: dict[tuple[int, ...], float] = {}
        for path, chance in outcomes.items():
            with torch.inference_mode():
                best = model(torch.tensor([[*prompt, *path]]))[0, -1].topk(2)
            for token, p in zip(
                best.indices.tolist(), best.values.softmax(-1).tolist(), strict=True
            ):
                grown[*path, token] = chance * p
        outcomes = grown
    drafted = max(outcomes, key=lambda path: outcomes[path])
    core = exact_core(max_running=64, tokens=4096)
    verified = always(core)
    n = 900
    jobs = [
        generate_job(i, prompt, table, 3, choice=hot(top_k=2), seed=i, prediction=drafted)
        for i in range(n)
    ]
    events = drain(core, *jobs)
    seen = Counter(tuple(ids_of(events[i])) for i in range(n))
    assert len(verified) > n / 4
    assert min(outcomes.values()) * n > 5
    statistic = sum((seen[path] - n * p) ** 2 / (n * p) for path, p in outcomes.items())
    assert statistic < 24.3  # chi-square, 7 degrees of freedom, p = 0.001


def answer(core: Core, job: GenerateJob) -> tuple[list[int], tuple[int, ...]]:
    events = drain(core, job)[job.key]
    assert events[-1].usage is not None
    return ids_of(events), events[-1].usage


def test_usage_counts_the_prediction_and_only_it(
    make_core: MakeCore, prompt: list[int], table: list[bytes]
) -> None:
    core = make_core()
    tokens, used = answer(core, generate_job(1, prompt, table, 40))
    assert used[:2] == (len(prompt), 40)
    assert len(used) == 3
    unknown = 299
    assert unknown not in tokens
    cases: list[tuple[list[int], tuple[int, int]]] = [
        (tokens, (40, 0)),
        (tokens + [unknown] * 9, (40, 9)),
        ([unknown] * 9, (0, 9)),
        (tokens[:20] + [unknown] * 2 + tokens[22:], (38, 2)),
        (tokens[:20] + [unknown] * 2 + tokens[20:], (40, 2)),
        (tokens[:10] + tokens[14:], (36, 0)),
    ]
    for prediction, want in cases:
        for choose in (always, lambda core: None):
            other = make_core()
            choose(other)
            job = generate_job(1, prompt, table, 40, prediction=prediction)
            same, used = answer(other, job)
            assert same == tokens
            assert sum(used[3:]) == len(prediction)
            # The model may say something twice, so that another place looks like the right one.
            assert abs(used[3] - want[0]) <= 2
    _, used = answer(make_core(drafting=False), generate_job(1, prompt, table, 9, prediction=[1]))
    assert len(used) == 3


def test_a_cancelled_request_tells_what_appeared(
    make_core: MakeCore, prompt: list[int], table: list[bytes]
) -> None:
    tokens, _ = answer(make_core(), generate_job(1, prompt, table, 40))
    core = make_core()
    verified = always(core)
    core.submit(generate_job(1, prompt, table, 100, prediction=tokens))
    while not verified:
        core.step()
    used = core.cancel(1)
    assert used is not None
    assert used[3] == used[1] > MOST_DRAFTED
    assert used[4] == len(tokens) - used[3]
    assert core.blocks.used == 0
    check(core.scheduler)


@pytest.mark.parametrize("seed", range(4))
def test_no_order_of_work_leaks_a_block(make_core: MakeCore, table: list[bytes], seed: int) -> None:
    rng = random.Random(seed)
    core = make_core(tokens=512, max_running=5, chunk=20)
    verified = always(core, rng)
    alive: set[int] = set()
    part = [rng.randrange(300) for _ in range(20)]
    for key in range(300):
        what = rng.random()
        if what < 0.3 and len(alive) < 12:
            ids = part * rng.randint(1, 4) + part[: rng.randint(0, 20)]
            job = generate_job(
                key,
                ids,
                table,
                rng.randint(1, 60),
                choice=rng.choice([Choice(temperature=0.0), hot(top_k=2)]),
                seed=key,
                prediction=predictions(part, rng) if rng.random() < 0.5 else (),
            )
            core.submit(job)
            alive.add(key)
        elif what < 0.36 and alive:
            core.cancel(gone := rng.choice(sorted(alive)))
            alive.discard(gone)
        else:
            alive -= {event.key for event in core.step() if event.finish}
        check(core.scheduler)
    drain(core)
    assert core.blocks.used == 0
    check(core.scheduler)
    assert len(verified) > 50


def test_what_was_drafted_in_vain_is_not_shared(
    make_core: MakeCore, prompt: list[int], table: list[bytes]
) -> None:
    """A prediction was in the cache's blocks, the text is another: nobody must find the former."""
    core = make_core()
    always(core)
    wrong = [11, 12, 13] * 30
    tokens, used = answer(core, generate_job(1, prompt, table, 70, prediction=wrong))
    assert used[3] < 10
    size = core.backend.block_size
    beginning = [*prompt, *tokens]
    middle = len(prompt) + 40
    found = drain(core, generate_job(2, [*beginning[:middle], *wrong], table, 5))[2]
    assert found[-1].usage is not None
    assert found[-1].usage[2] == middle // size * size
    again, used = answer(core, generate_job(3, [*beginning, 5], table, 20))
    assert used[2] >= (len(beginning) - 1) // size * size
    assert again == answer(make_core(), generate_job(3, [*beginning, 5], table, 20))[0]


def test_drafts_take_only_what_is_left(
    make_core: MakeCore, prompt: list[int], table: list[bytes]
) -> None:
    """The cache has room for both requests, and for nothing else."""
    core = make_core()
    long, needed = (prompt * 9)[:150], core.blocks.needed
    room = (needed(len(prompt) + 30) + needed(len(long) + 40)) * core.backend.block_size
    tokens, _ = answer(core, generate_job(1, prompt, table, 30))
    other, _ = answer(core, generate_job(2, long, table, 40))
    core = make_core(tokens=room, max_running=4, chunk=500)
    verified = always(core)
    release = core.scheduler.tree.release
    released: list[object] = []

    def noted(sequence: Sequence) -> None:
        released.append(sequence)
        release(sequence)

    core.scheduler.tree.release = noted  # type: ignore[method-assign]
    events = drain(
        core,
        generate_job(1, prompt, table, 30, prediction=tokens),
        generate_job(2, long, table, 40, prediction=other),
    )
    assert (ids_of(events[1]), ids_of(events[2])) == (tokens, other)
    assert len(released) == 2  # each at its own end
    assert len(verified) > 1


def test_a_draft_whose_numbers_break_harms_nobody(
    make_core: MakeCore, prompt: list[int], table: list[bytes]
) -> None:
    size = make_core().backend.block_size
    for extra in range(0, size, 5):  # wherever in a block the text is when it happens
        asked = prompt + [7] * extra
        want, _ = answer(make_core(), generate_job(1, asked, table, 30))
        poison = max(set(range(300)) - set(want) - set(asked))
        core = make_core(tokens=512)
        poison_token(core.backend, poison)
        always(core)
        job = generate_job(1, asked, table, 30, prediction=[*want[:6], poison, *want[7:]])
        events = drain(core, job, generate_job(2, asked, table, 30))
        assert ids_of(events[1]) == ids_of(events[2]) == want
        assert job.drafter is not None
        assert job.drafter.due > 10**9  # it happened, and nothing is drafted any more
        assert events[1][-1].usage is not None
        assert events[1][-1].usage[3] >= 28
        assert core.blocks.used == 0
        check(core.scheduler)
        # Whoever gets the blocks next finds nothing broken in them.
        assert answer(core, generate_job(3, asked, table, 30))[0] == want


def test_events_are_in_order_and_one_for_each_token(
    make_core: MakeCore, prompt: list[int], table: list[bytes]
) -> None:
    tokens, _ = answer(make_core(), generate_job(1, prompt, table, 40))
    core = make_core()
    always(core)
    events: list[Event] = drain(core, generate_job(1, prompt, table, 40, prediction=tokens))[1]
    assert ids_of(events) == tokens
    assert [event.finish for event in events[:-1]] == [None] * (len(events) - 1)

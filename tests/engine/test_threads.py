"""Threads of the compiled step: every share is done once, bits are the same however a step is
divided, an idle engine uses no processor, and more threads are used where they are quicker."""

from __future__ import annotations

import ctypes as c
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everloop.engine.native import library
from everloop.engine.native.backend import Choice, Rows, Writer
from everloop.engine.native.compiled import CompiledBackend
from everloop.engine.native.packed import open_packed
from tests.model.layouts import saved

WORK = 50_000_000
"""Multiplications of a step that more threads may do."""


@pytest.fixture(scope="module")
def native() -> Any:
    try:
        library.load()
    except library.Missing as error:
        pytest.skip(str(error))
    handle = c.CDLL(str(library.PATH))
    handle.everloop_model_divide.argtypes = [c.c_void_p, c.c_int32]
    handle.everloop_pool_try.argtypes = [*[c.c_int32] * 4, c.c_void_p]
    handle.everloop_width_new.restype = c.c_void_p
    handle.everloop_width_free.argtypes = [c.c_void_p]
    handle.everloop_width_all.argtypes = [c.c_void_p, c.c_int64]
    handle.everloop_width_took.argtypes = [c.c_void_p, c.c_double]
    return handle


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_every_share_is_done_once(native: Any, threads: int) -> None:
    rng = random.Random(threads)
    for _ in range(20):
        n, share, parts = rng.randint(1, 200), rng.randint(1, 40), rng.randint(1, 50)
        done = np.zeros(n, np.int32)
        native.everloop_pool_try(threads, n, share, parts, done.ctypes.data)
        assert (done == parts).all(), (n, share, parts)


class Learner:
    """A controller that is told what steps take."""

    def __init__(self, native: Any) -> None:
        self._native, self._width = native, native.everloop_width_new()

    def __del__(self) -> None:
        self._native.everloop_width_free(self._width)

    def steps(self, count: int, one: float, every: float, work: int = WORK) -> list[bool]:
        """Whether each of `count` steps was done by all threads, which take `every` seconds."""
        used = []
        for _ in range(count):
            used.append(bool(self._native.everloop_width_all(self._width, work)))
            self._native.everloop_width_took(self._width, every if used[-1] else one)
        return used


@pytest.fixture
def learner(native: Any) -> Learner:
    return Learner(native)


@pytest.mark.parametrize("one", [0.0002, 0.02])
def test_all_threads_work_where_they_are_quicker(learner: Learner, one: float) -> None:
    learner.steps(50, one, one / 2)
    used = learner.steps(1000, one, one / 2)
    assert 0.95 < sum(used) / len(used) < 1  # one thread is timed again now and then


@pytest.mark.parametrize(("one", "every"), [(0.0002, 0.0003), (0.0002, 0.004), (0.02, 0.021)])
def test_slower_threads_cost_little(learner: Learner, one: float, every: float) -> None:
    learner.steps(50, one, every)
    count = int(20 / one)
    used = learner.steps(count, one, every)
    lost = sum(used) * (every - one) / (count * one)
    assert lost < 0.03
    assert any(used)  # their cores may have become free


def test_it_follows_cores_that_are_taken_and_free_again(learner: Learner) -> None:
    learner.steps(200, 0.002, 0.001)
    assert sum(learner.steps(100, 0.002, 0.006)) < 15
    learner.steps(1000, 0.002, 0.001)
    assert sum(learner.steps(100, 0.002, 0.001)) > 90


def test_a_gain_that_is_not_worth_a_core_is_not_taken(learner: Learner) -> None:
    learner.steps(50, 0.002, 0.00195)
    assert sum(learner.steps(1000, 0.002, 0.00195)) < 400


def test_little_work_is_done_by_one_thread(learner: Learner) -> None:
    assert not any(learner.steps(300, 0.0001, 0.00001, work=3_000_000))


def test_a_step_has_the_same_bits_however_it_is_divided(native: Any, tmp_path: Path) -> None:
    saved("qwen2-some-windows", tmp_path / "model")
    packed = open_packed(tmp_path / "model", None, bits=8, cache=tmp_path / "cache")
    rng = random.Random(1)
    found = []
    batches = [  # streams only; a prompt with streams; two prompts
        [Rows(ids=[rng.randrange(97)], start=0, table=[i]) for i in range(33)],
        [Rows(ids=[rng.randrange(97) for _ in range(n)], start=0, table=range(4 * i, 4 * i + 4))
         for i, n in enumerate((1, 120, 1, 1, 7))],
        [Rows(ids=[rng.randrange(97) for _ in range(n)], start=0, table=range(4 * i, 4 * i + 4))
         for i, n in enumerate((50, 101))],
    ]  # fmt: skip
    for threads, how in ((1, 0), (2, 1), (2, 2), (3, 1), (3, 2)):
        backend = CompiledBackend(packed, blocks=64, threads=threads, max_rows=512)
        native.everloop_model_divide(backend._model, how)
        for batch in batches:
            assert all(backend.forward(batch))
            found.append(backend.logits(range(sum(len(r.ids) for r in batch))).copy())
        writers = [
            Writer(
                id=i,
                position=0,
                table=[2 * i, 2 * i + 1],
                sampler=backend.sampler(Choice(temperature=1.0), i),
                ends=frozenset(),
            )
            for i in range(9)
        ]
        found.append(np.array(backend.write(writers, 12).tokens))
    for i, values in enumerate(found[4:], 4):
        assert np.array_equal(values, found[i % 4]), i


def test_an_idle_engine_uses_no_processor(native: Any, tmp_path: Path) -> None:
    saved("qwen3", tmp_path / "model")
    packed = open_packed(tmp_path / "model", None, bits=8, cache=tmp_path / "cache")
    backend = CompiledBackend(packed, blocks=8, threads=3, max_rows=64)
    native.everloop_model_divide(backend._model, 1)
    backend.forward([Rows(ids=[1] * 60, start=0, table=[0, 1])])
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1

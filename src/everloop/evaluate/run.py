"""Asks a model all rows of a suite, many at once, and works out what the replies are worth."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import everloop
from everloop.data.files import write_atomic
from everloop.data.instructions import INSTRUCTIONS
from everloop.engine.interface import Engine
from everloop.errors import ContextLengthExceeded, EngineUnavailable, Overloaded
from everloop.evaluate.estimate import Draws, Estimate, Statistics, draws, packed, spread, totals
from everloop.evaluate.examination import examine
from everloop.evaluate.journal import Journal, digest
from everloop.evaluate.progress import Progress
from everloop.evaluate.suite import Metric, Prediction, Row, Suite
from everloop.evaluate.suites import Measured

CONCURRENCY = 32
TRIES = 5  # while the engine is down
SAMPLES: Final = 4
BASELINES_VERSION = 2  # raise it when a baseline changes, so that kept ones are made again


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One row as it was asked and answered."""

    asked: str
    expected: str
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a suite says of a model. `metrics` and each baseline's are in the suite's order, the
    first being the one number of the task; `above_baseline` is by how much the first metric is
    above the first baseline's, on the same rows, whatever direction is better. `draws` are the
    bootstrap's, packed, for comparing with other models; `details` are for pictures."""

    name: str
    title: str
    task: str
    lang: str
    rows: int
    too_long: int
    train_rows: int
    metrics: Mapping[str, Estimate]
    percent: Mapping[str, bool]
    higher_is_better: Mapping[str, bool]
    baselines: Mapping[str, Mapping[str, Estimate]]
    above_baseline: Estimate | None
    draws: Mapping[str, str]
    details: Mapping[str, Any]
    findings: Sequence[Mapping[str, str]]
    samples: Sequence[Sample]
    rows_hash: str
    files: Mapping[str, str]
    origin: str
    seconds: float


async def measure(
    engine: Engine,
    measured: Measured,
    *,
    folder: Path,
    cache: Path,
    progress: Progress,
    concurrency: int = CONCURRENCY,
) -> Result:
    """Asks and scores one suite. Predictions are kept in `folder` as they come, and asked again
    only if their row changes; those of baselines in `cache`.

    Raises what the engine raises; EngineUnavailable after TRIES attempts.
    """
    suite, started = measured.suite, time.monotonic()
    found = await asyncio.to_thread(_findings, measured, cache)
    progress.go_on()
    for finding in found:
        progress.say(f"{measured.name}: {finding['said']} {finding['done']}")
    predictions = await _ask(engine, measured, folder, progress, concurrency)
    statistics = suite.statistics(suite.rows, predictions)
    metrics = suite.metrics
    # The baselines take a core for a while: they must not hold up the engine's connection.
    train_rows, simple = await asyncio.to_thread(_baselines, measured, cache)
    tables = {name: suite.statistics(suite.rows, said) for name, said in simple.items()}
    drawn = _drawn(metrics, statistics)
    theirs = {name: _drawn(metrics, table) for name, table in tables.items()}
    first = next(iter(metrics))
    above = None
    if tables:  # the strongest comes first
        strongest, of = next(iter(tables)), metrics[first].of
        above = spread(
            of(statistics.sum(0)) - of(tables[strongest].sum(0)),
            drawn[first] - theirs[strongest][first],
        )
    return Result(
        name=measured.name,
        title=measured.title,
        task=measured.task,
        lang=suite.lang,
        rows=len(suite.rows),
        too_long=sum("refused" in prediction for prediction in predictions),
        train_rows=train_rows,
        metrics=_estimates(metrics, statistics, drawn),
        percent={name: metric.percent for name, metric in metrics.items()},
        higher_is_better={name: metric.higher_is_better for name, metric in metrics.items()},
        baselines={
            baseline: _estimates(metrics, table, theirs[baseline])
            for baseline, table in tables.items()
        },
        above_baseline=above,
        draws={name: packed(drawn[name]) for name in metrics if metrics[name].resampled},
        details=suite.details(suite.rows, predictions),
        findings=found,
        samples=_samples(suite, predictions),
        rows_hash=measured.rows_hash,
        files=measured.files,
        origin=measured.origin,
        seconds=time.monotonic() - started,
    )


def _drawn(metrics: Mapping[str, Metric], statistics: Statistics) -> dict[str, Draws]:
    drawn = totals(statistics)
    return {name: draws(drawn, metric.of) for name, metric in metrics.items()}


def _estimates(
    metrics: Mapping[str, Metric], statistics: Statistics, drawn: Mapping[str, Draws]
) -> dict[str, Estimate]:
    return {name: metric.estimate(statistics, drawn[name]) for name, metric in metrics.items()}


async def _ask(
    engine: Engine, measured: Measured, folder: Path, progress: Progress, concurrency: int
) -> list[Prediction]:
    rows = measured.suite.rows
    # What is kept is good only for the same row, asked in the same words.
    asked = {lang: said[0] for lang, said in INSTRUCTIONS.get(measured.task, {}).items()}
    keys = [digest([everloop.__version__, asked, dict(row)]) for row in rows]
    with Journal(folder / f"{measured.name}.jsonl") as journal:
        todo = {}
        for key, row in zip(keys, rows, strict=True):
            if key in journal.known:
                progress.step(measured.name, known=True)
            else:
                todo[key] = row
        left = iter(todo.items())

        async def work() -> None:
            for key, row in left:
                journal.add(key, await _patiently(engine, measured.suite, row))
                progress.step(measured.name, known=False)

        workers = [asyncio.create_task(work()) for _ in range(min(concurrency, len(todo)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return [journal.known[key] for key in keys]


async def _patiently(engine: Engine, suite: Suite, row: Row) -> Prediction:
    """The model's prediction; waits while the engine is full, and a while when it is down."""
    tries = 0
    while True:
        try:
            return await suite.predict(engine, row)
        except ContextLengthExceeded as error:
            return {"refused": error.message}
        except Overloaded as error:
            await asyncio.sleep(error.retry_after)
        except EngineUnavailable as error:
            tries += 1
            if tries == TRIES:
                raise
            await asyncio.sleep(error.retry_after)


def _baselines(measured: Measured, cache: Path) -> tuple[int, Mapping[str, Sequence[Prediction]]]:
    """Training rows and predictions of the baselines, worked out once for the same data."""
    suite = measured.suite

    def make() -> dict[str, Any]:
        found = suite.baselines(suite.rows)
        return {"train_rows": len(suite.train), "baselines": found}

    asked = [measured.task, suite.lang, dict(measured.files), measured.rows_hash]
    kept = _once(cache, measured.name, ["baselines", *asked], make)
    return kept["train_rows"], kept["baselines"]


def _findings(measured: Measured, cache: Path) -> list[dict[str, str]]:
    """What is odd about the rows, found out once for the same files."""

    def make() -> list[dict[str, str]]:
        return [asdict(finding) for finding in examine(measured)]

    found: list[dict[str, str]] = _once(
        cache, f"{measured.name}-findings", ["findings", dict(measured.files)], make
    )
    return found


def _once(cache: Path, name: str, depends: object, make: Callable[[], Any]) -> Any:
    """What `make` gives, kept in `cache` for as long as what it depends on is the same."""
    path = cache / f"{name}-{digest([BASELINES_VERSION, depends])}.json"
    if path.exists():
        return json.loads(path.read_bytes())
    found = make()
    cache.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(found, ensure_ascii=False).encode("utf-8", "backslashreplace"))
    return found


def _samples(suite: Suite, predictions: Sequence[Prediction]) -> list[Sample]:
    """The first rows (their order is by hash, so no choice); all of small talk."""
    count = len(suite.rows) if suite.needs == ("prompt",) else SAMPLES
    shown = zip(suite.rows[:count], predictions[:count], strict=True)
    return [Sample(asked=a, expected=e, said=s) for a, e, s in (suite.show(r, p) for r, p in shown)]

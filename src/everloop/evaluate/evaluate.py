"""An evaluation from beginning to end: the suites in turn, and the report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import everloop
from everloop.data.files import disk_errors, write_atomic
from everloop.engine.interface import Engine
from everloop.errors import EngineUnavailable, InvalidRequest
from everloop.evaluate.compare import FORMAT, Report, compare, require_same_rows
from everloop.evaluate.dialogue import SEED
from everloop.evaluate.environment import machine, versions
from everloop.evaluate.page import page
from everloop.evaluate.progress import Progress
from everloop.evaluate.report import interval, markdown
from everloop.evaluate.run import Result, measure
from everloop.evaluate.suites import Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The model that is measured. `sha256` is of its files; for a remote one it is empty."""

    name: str
    version: str = ""
    sha256: str = ""
    source: str = ""


async def evaluate(
    engine: Engine,
    subject: Subject,
    suites: Sequence[Measured],
    *,
    missing: Mapping[str, str],
    limit: int,
    out: Path,
    cache: Path,
    others: Sequence[Report] = (),
) -> dict[str, Any]:
    """Measures the suites and writes `report.json`, `report.md` and `report.html` into `out`;
    returns the first. `others` are reports of other models on the same rows, to compare with.

    Started again with the same `out`, it asks only what it hasn't asked. A suite that the model
    can't be asked (a remote server that scores nothing, say) is named in `missing` with the
    reason. Raises InvalidRequest if `out` holds another model's predictions or another report is
    of other rows, EngineUnavailable if the engine stays down.
    """
    if others:
        rows = {measured.name: measured.rows_hash for measured in suites}
        for other in others:
            require_same_rows(rows, other)
    _claim(out, subject)
    started = time.monotonic()
    progress = Progress(sum(len(measured.suite.rows) for measured in suites))
    results: list[Result] = []
    left_out = dict(missing)
    for measured in suites:
        try:
            result = await measure(
                engine, measured, folder=out / "predictions", cache=cache, progress=progress
            )
        except InvalidRequest as error:
            left_out[measured.name] = error.message
            progress.end(measured.name, f"not measured: {error.message}")
            continue
        except EngineUnavailable as error:
            if engine.status().ready:  # it answers, but not this: log-probabilities, say
                left_out[measured.name] = error.message
                progress.end(measured.name, f"not measured: {error.message}")
                continue
            raise EngineUnavailable(
                f"{error.message} What was answered is kept: run the same command to go on."
            ) from error
        results.append(result)
        first = next(iter(result.metrics))
        value = interval(asdict(result.metrics[first]), result.percent[first])
        progress.end(measured.name, f"{first} {value}")
    report: dict[str, Any] = {
        "format": FORMAT,
        "model": asdict(subject),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "limit": limit,
        "seed": SEED,
        "seconds": round(time.monotonic() - started, 1),
        "machine": machine(),
        "versions": {"everloop": everloop.__version__, **versions()},
        "results": [asdict(result) for result in results],
        "missing": left_out,
    }
    report["compared"] = [compare(report, other) for other in others]
    write(report, out)
    return report


def write(report: Report, out: Path) -> None:
    """Writes the report in its three forms into `out`."""
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / "report.json", _json(report))
        write_atomic(out / "report.md", markdown(report).encode("utf-8", "replace"))
        write_atomic(out / "report.html", page(report).encode("utf-8", "replace"))


def _json(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    return text.encode("utf-8", "backslashreplace")


def _claim(out: Path, subject: Subject) -> None:
    """Marks the folder as this model's. Raises InvalidRequest if it is another's."""
    path = out / "model.json"
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_atomic(path, _json(asdict(subject)))
        return
    kept = json.loads(path.read_bytes())
    if (kept["name"], kept["sha256"]) != (subject.name, subject.sha256):
        raise InvalidRequest(
            f"{out} holds an evaluation of {kept['name']} {kept['sha256'][:12]}, not of "
            f"{subject.name} {subject.sha256[:12]}. Choose another --out.",
            param="out",
        )

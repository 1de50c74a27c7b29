"""Everloop beside llama.cpp and OpenVINO GenAI: same machine, weights, prompts and lengths.

    python bench/compare.py                       # everything; writes docs/performance.*
    python bench/compare.py --only 'read-*'       # some rows, only printed
    python bench/compare.py --only load-small --merge      # one row again, into the pages
    python bench/compare.py --quick               # one repeat, no curves, only printed
    python bench/compare.py --sides everloop      # without peers

The first run installs the peers (bench/peers/environment.py) and writes the weights
(bench/peers/weights.py, some 2.3 GB) into EVERLOOP_BENCH_HOME. Then the machine's own limits are
measured, and all sides in turn. Use a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import json
import os
import sys
from pathlib import Path
from typing import Any

from peers import bench as benches
from peers import interleave, report
from peers.chart import draw
from peers.environment import Unavailable
from peers.machine import best, limits, machine, versions
from peers.measures import ROWS, Measure, curves

DOCS = Path(__file__).parents[1] / "docs"

BUSY = 0.5
"""A load average that says that something else is running."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="ROW", help="names of rows; * stands for any")
    parser.add_argument("--list", action="store_true", help="print the names of all rows")
    parser.add_argument(
        "--sides", nargs="+", choices=benches.SIDES, default=list(benches.SIDES), metavar="SIDE"
    )
    parser.add_argument("--repeat", type=int, default=5, help="times that everything is measured")
    parser.add_argument("--quick", action="store_true", help="one repeat, without the curves")
    parser.add_argument("--merge", action="store_true", help="keep the other rows of --out")
    parser.add_argument(
        "--out", type=Path, help="folder for performance.json and .png and for the pages there"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("EVERLOOP_DATA"),
        help="folder of the training data, for held-out text; default: EVERLOOP_DATA",
    )
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.repeat = 1
    whole = not chosen.only and not chosen.quick and len(chosen.sides) == len(benches.SIDES)
    if chosen.out is None and (whole or chosen.merge):
        chosen.out = DOCS
    return chosen


def select(chosen: argparse.Namespace) -> list[Measure]:
    """The measures asked for. Raises SystemExit for a name that is none."""
    every = (*ROWS, *(() if chosen.quick else curves()))
    if not chosen.only:
        return list(every)
    for pattern in chosen.only:
        if not any(fnmatch.fnmatch(m.name, pattern) for m in every):
            sys.exit(f"--only {pattern}: no such row. --list prints them all.")
    return [m for m in every if any(fnmatch.fnmatch(m.name, p) for p in chosen.only)]


def main() -> None:
    chosen = parse()
    measures = select(chosen)
    if chosen.list:
        print("\n".join(f"{m.name:<28} {m.title}" for m in measures))
        return
    if chosen.out is not None:
        chosen.out.mkdir(parents=True, exist_ok=True)
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    try:
        bench = benches.make(chosen.sides, chosen.data, when)
        minutes = interleave.estimate(measures, chosen.repeat) / 60
        print(f"{len(measures)} rows: about {minutes:.0f} minutes", file=sys.stderr)
        results = measure(bench, measures, chosen, when)
    except Unavailable as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped")
    report.show(results)
    if chosen.out is not None and (chosen.out / "performance.md").is_file():
        report.write_pages(results, chosen.out)


def measure(
    bench: benches.Bench, measures: list[Measure], chosen: argparse.Namespace, when: str
) -> dict[str, Any]:
    """The results, also written after every measure where they are to be kept."""
    about = machine()
    if about["load before"] > BUSY:
        print(f"The load is {about['load before']}: the numbers will be worse.", file=sys.stderr)
    results: dict[str, Any] = {
        "when": when,
        "repeats": chosen.repeat,
        "machine": about,
        "versions": versions(bench.environment),
        "limits": limits(),
        "threads": {},
        "text": {},
        "values": {},
        "skipped": {},
    }
    most = best(results["limits"])
    by_name = {m.name: m for m in measures}
    if chosen.merge and (chosen.out / "performance.json").is_file():
        before = json.loads((chosen.out / "performance.json").read_text(encoding="utf-8"))
        for name in ("threads", "text", "values", "skipped"):
            results[name] = before[name]

    def done(outcome: interleave.Outcome) -> None:
        for name, series in outcome.values.items():
            limit = by_name[name].limit
            if limit is not None:
                series["limit"] = [limit(bench, most)]
        results["values"] |= outcome.values
        results["skipped"] |= outcome.skipped
        results["threads"] |= {" ".join(key): n for key, n in bench.threads.items()}
        results["text"] |= bench.sources
        if chosen.out is not None:
            path = chosen.out / "performance.json"
            path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
            draw(results, chosen.out / "performance.png")

    try:
        interleave.run(bench, measures, chosen.repeat, done=done)
    finally:
        bench.close()
    return results


if __name__ == "__main__":
    main()

"""Does robust training pay? Plain tuning, noise in the examples, and each loss term, at equal steps
and at equal operations, over several seeds.

    python recipes/robustness/compare.py MODEL --rows recipes/everloop-small/built --out work/robust

tunes MODEL once for each set, arm and seed, measures every result with the robustness suite, and
writes OUT/results.json and OUT/results.md. Stopped, it goes on where it was. `--steps`,
`--examples` and `--measured` say how much.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everloop.data.files import write_atomic
from everloop.data.pack import PackOptions, pack
from everloop.data.source import Source
from everloop.data.split import document_hash
from everloop.engine.native import NativeEngine, NativeOptions
from everloop.evaluate.robustness import Robustness
from everloop.evaluate.suites import load
from everloop.train import run
from everloop.train.options import Options
from everloop.train.robust import parse

SETS = ("sentiment.sst2", "sentiment.chnsenticorp")
CONCURRENCY = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to tune. With `equal` "operations" a costlier step means fewer of them."""

    name: str
    robust: str = ""
    noise: float = 0.0
    equal: str = "steps"

    def steps(self, plain: int) -> int:
        cost = parse(self.robust).cost if self.equal == "operations" else 1.0
        return max(1, round(plain / cost))


def arms() -> list[Arm]:
    """Plain, noise alone, every term at equal steps, and costlier ones at equal operations too."""
    made = [Arm(name="plain"), Arm(name="noise", noise=0.5)]
    for name, robust in (
        ("neftune", "neftune=5"),
        ("rdrop", "rdrop=1"),
        ("vat", "vat=1"),
        ("freelb", "freelb=2"),
    ):
        made.append(Arm(name=name, robust=robust))
        if parse(robust).cost > 1:
            made.append(Arm(name=f"{name}, equal operations", robust=robust, equal="operations"))
    made.append(Arm(name="noise + freelb, equal operations", noise=0.5, robust="freelb=2",
                    equal="operations"))  # fmt: skip
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", type=Path, help="directory of the model to tune")
    parser.add_argument("--rows", type=Path, required=True, help="what the recipe's build.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", action="append", help=f"TASK.SOURCE; default: {', '.join(SETS)}")
    parser.add_argument("--arm", action="append", help="only these; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200, help="of plain tuning")
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--examples", type=int, default=4000, help="to tune on")
    parser.add_argument("--measured", type=int, default=60, help="texts of the suite, at most 100")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    chosen = [arm for arm in arms() if not given.arm or arm.name in given.arm]
    if given.arm and len(chosen) < len(set(given.arm)):
        parser.error(f"--arm: one of {'; '.join(arm.name for arm in arms())}")
    given.out.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    # Seed by seed: stopped early, every arm has as many.
    for seed in range(given.seeds):
        for name in given.set or SETS:
            for arm in chosen:
                found.append(one(given, name, arm, seed))
                report(given.out, found, given)


def one(given: argparse.Namespace, name: str, arm: Arm, seed: int) -> dict[str, Any]:
    """Tunes and measures one model, or reads what was found before."""
    label = f"{name}-{arm.name}-{seed}".replace(", ", "-").replace(" ", "-")
    path: Path = given.out / "runs" / f"{label}.json"
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept
    say(f"{name}, {arm.name}, seed {seed}")
    folder, began = given.out / "work" / label, time.process_time()
    steps = arm.steps(given.steps)
    options = Options(
        tokens=steps * given.batch_tokens,
        sequence_length=256,
        batch_tokens=given.batch_tokens,
        micro_tokens=min(4096, given.batch_tokens),
        precision="bf16",
        robust=arm.robust,
        seed=seed + 1,
        save_dtype="fp32",
    )
    if not (folder / "model").exists():
        run.finetune(given.model, examples(given, name, arm.noise), folder, options, silent)
    record = json.loads((folder / "model" / "run.json").read_text(encoding="utf-8"))
    numbers = asyncio.run(measured(folder / "model", given, name))
    value = {
        "set": name,
        "arm": arm.name,
        "seed": seed,
        "steps": steps,
        "flops": record["flops"],
        "loss": record["final_loss"],
        "seconds": round(time.process_time() - began, 1),
        "metrics": numbers,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode())
    shutil.rmtree(folder)
    return value


def examples(given: argparse.Namespace, name: str, noise: float) -> Path:
    """The first examples of a set, by hash, packed for the model."""
    rows = given.out / "rows" / f"{name}.jsonl"
    if not rows.exists():
        lines = (given.rows / "sft" / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
        some = sorted(filter(None, lines), key=document_hash)[: given.examples]
        rows.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(rows, "".join(f"{line}\n" for line in some).encode())
    target: Path = given.out / "packed" / f"{name}-{noise:g}"
    source = Source(name=name, files=(rows,), kind="examples", noise=noise)
    pack((source,), given.model, target, options=PackOptions(val_fraction=0.0, max_tokens=256))
    return target


async def measured(model: Path, given: argparse.Namespace, name: str) -> dict[str, float]:
    """The robustness suite's metrics."""
    ((clean,), _) = load([name], given.rows, [], given.measured)
    suite = Robustness(clean.suite.rows, clean.suite.lang)
    engine = NativeEngine(model, "tuned", NativeOptions(threads=given.threads))
    await engine.start()
    try:
        gate = asyncio.Semaphore(CONCURRENCY)

        async def ask(row: Any) -> Any:
            async with gate:
                return await suite.predict(engine, row)

        predictions = await asyncio.gather(*map(ask, suite.rows))
    finally:
        await engine.close()
    total = suite.statistics(suite.rows, predictions).sum(0)
    return {name: round(metric.of(total), 4) for name, metric in suite.metrics.items()}


SHOWN = {
    "clean accuracy": "clean",
    "accuracy, severity 1": "severity 1",
    "accuracy, severity 3": "severity 3",
    "accuracy, severity 5": "severity 5",
    "held-out noise, severity 3": "held-out noise",
    "consistency": "consistency",
    "attack success": "attack success",
    "calibration error": "ECE",
    "calibration error, severity 3": "ECE, severity 3",
}


def report(out: Path, found: Sequence[dict[str, Any]], given: argparse.Namespace) -> None:
    """results.json and, as mean ± standard deviation over seeds in percent, results.md."""
    write_atomic(out / "results.json", (json.dumps(list(found), indent=1) + "\n").encode())
    parts = []
    for name in dict.fromkeys(each["set"] for each in found):
        lines = [
            f"## {name}",
            "",
            "| arm | seeds | steps | operations | " + " | ".join(SHOWN.values()) + " |",
            "|---" * (4 + len(SHOWN)) + "|",
        ]
        here = [each for each in found if each["set"] == name]
        for arm in dict.fromkeys(each["arm"] for each in here):
            runs = [each for each in here if each["arm"] == arm]
            cells = [spread([each["metrics"][key] for each in runs]) for key in SHOWN]
            first = runs[0]
            lines.append(
                f"| {arm} | {len(runs)} | {first['steps']} | {first['flops']:.1e} | "
                + " | ".join(cells)
                + " |"
            )
        parts.append("\n".join(lines))
    told = (
        f"{given.examples} examples, {given.batch_tokens} tokens a step, {given.measured} texts; "
        "percent, mean ± standard deviation over seeds."
    )
    write_atomic(out / "results.md", ("\n\n".join([told, *parts]) + "\n").encode())


def spread(values: Sequence[float]) -> str:
    mean = 100 * statistics.fmean(values)
    return (
        f"{mean:.1f} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def silent(_text: str) -> None:
    return None


if __name__ == "__main__":
    main()

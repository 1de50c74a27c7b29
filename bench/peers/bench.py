"""The sides at work: who is asked what, with which file and how many threads."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .environment import Environment, ensure, home
from .process import Side
from .texts import held_out, prompt
from .weights import EMBEDDED, Weights, prepare

HERE = Path(__file__).parent
EVERLOOP, LLAMA, OPENVINO = SIDES = ("everloop", "llama.cpp", "openvino")

FILES = {"8bit": "Q8_0", "4bit": "Q4_0", "full": "BF16"}
"""What the peers call the weights."""


@dataclass(slots=True, kw_only=True)
class Bench:
    """Everything that a measurement needs. `close` it."""

    sides: dict[str, Side]
    home: Path
    environment: Environment | None
    data: Path | None
    run: str
    """Salt of all prompts: none was ever read before, so no cache helps."""
    weights: dict[str, Weights] = field(default_factory=dict)
    threads: dict[tuple[str, str, str, str], int] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def ask(
        self, side: str, op: str, model: str, weights: str, *, kind: str = "", **arguments: Any
    ) -> dict[str, Any]:
        """What a side measured. A peer works with the number of threads that was fastest for this
        `kind` of work; Everloop chooses itself. Raises Skipped or SideError."""
        own = {"model": str(self.file(side, model, weights)), "weights": weights}
        threads = 0
        if kind and side != EVERLOOP:
            threads = self._best(side, op, model, weights, kind, own)
        return self.sides[side].ask(op, **own, threads=threads, **arguments)

    def file(self, side: str, model: str, weights: str) -> Path:
        """The model as a side reads it."""
        if model not in self.weights:
            self.weights[model] = prepare(model, self.home, self.environment)
        found = self.weights[model]
        return found.folder if side == EVERLOOP else found.files[FILES[weights]]

    def prompt(self, model: str, length: int, *seed: object) -> list[int]:
        """A prompt that no other call gets."""
        self.file(EVERLOOP, model, "8bit")
        vocab = self.weights[model].config.vocab_size
        return prompt(vocab, length, " ".join(map(str, (self.run, *seed))))

    def windows(self, lang: str) -> list[list[int]]:
        """Held-out text for the default model's own tokenizer."""
        found, self.sources[lang] = held_out(lang, EMBEDDED, self.data)
        return found

    def _best(
        self, side: str, op: str, model: str, weights: str, kind: str, own: dict[str, str]
    ) -> int:
        """The fastest of one thread and all cores, by a short try of the same kind."""
        key = (side, model, weights, kind)
        counts = sorted({1, cores()})
        if key not in self.threads:
            if len(counts) == 1:
                self.threads[key] = counts[0]
            else:
                times = {n: self._try(side, op, model, kind, n, own) for n in counts}
                self.threads[key] = min(times, key=times.__getitem__)
        return self.threads[key]

    def _try(
        self, side: str, op: str, model: str, kind: str, threads: int, own: dict[str, str]
    ) -> float:
        streams = int(kind) if kind.isdigit() else 1
        best = float("inf")
        for attempt in range(2):  # the first may be slower
            seed = (side, kind, threads, attempt)
            if op == "write":
                prompts = [self.prompt(model, 8, *seed, i) for i in range(streams)]
                work: dict[str, Any] = {"prompts": prompts, "tokens": 6}
            else:
                work = {"prompt": self.prompt(model, 96, *seed)}
            kept = "write" if op == "write" else "read"
            best = min(best, self.sides[side].ask(kept, **own, threads=threads, **work)["seconds"])
        return best

    def close(self) -> None:
        for side in self.sides.values():
            side.close()


def make(sides: list[str], data: Path | None, run: str) -> Bench:
    """A bench with these sides; the peers are installed first. Raises Unavailable."""
    where = home()
    environment = ensure(where) if set(sides) - {EVERLOOP} else None
    everloop = {**os.environ, "EVERLOOP_BENCH_PACKED": str(where / "packed")}
    source = str(HERE.parents[1] / "src")
    everloop["PYTHONPATH"] = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    commands = {EVERLOOP: ([sys.executable, str(HERE / "everloop_side.py")], everloop)}
    if environment is not None:
        peer = str(environment.python)
        commands[LLAMA] = ([peer, str(HERE / "llama_side.py")], environment.variables)
        commands[OPENVINO] = ([peer, str(HERE / "openvino_side.py")], environment.variables)
    (where / "packed").mkdir(parents=True, exist_ok=True)
    logs = where / "logs"
    logs.mkdir(exist_ok=True)
    made = {}
    for name in sides:
        log = logs / f"{name}.log"
        log.write_text("")
        made[name] = Side(name, *commands[name], log)
    return Bench(sides=made, home=where, environment=environment, data=data, run=run)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))

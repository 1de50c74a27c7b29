"""A side is a real process that answers over a pipe; sides are asked in turn."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench.peers import weights
from bench.peers.bench import SIDES, Bench
from bench.peers.interleave import run
from bench.peers.measures import Measure, Numbers
from bench.peers.process import Side, SideError, Skipped

PEERS = Path(weights.__file__).parent

SUBSTITUTE = """
import sys
sys.path.insert(0, {peers!r})
import os, side
asked = []
def read(model, weights, threads, prompt):
    print("libraries print to standard output")
    os.write(1, b"and below Python\\n")
    asked.append(threads)
    return {{"seconds": len(prompt) / (10 if threads == {fast} else 5), "asked": asked}}
def skip():
    raise side.Skip("not with these weights")
def fail():
    raise ValueError("broken")
def end():
    sys.exit(3)
side.serve({{"read": read, "skip": skip, "fail": fail, "end": end}})
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Side]]:
    """Starts a substitute for a peer, which is fastest with `fast` threads."""
    started = []

    def make(name: str = "llama.cpp", fast: int = 1) -> Side:
        program = SUBSTITUTE.format(peers=str(PEERS), fast=fast)
        log = tmp_path / f"{name}.log"
        started.append(Side(name, [sys.executable, "-c", program], dict(os.environ), log))
        return started[-1]

    yield make
    for side in started:
        side.close()


def test_answers_are_not_mixed_with_what_is_printed(start: Callable[..., Side]) -> None:
    side = start()
    for length in (10, 20):
        found = side.ask("read", model="m", weights="8bit", threads=1, prompt=[0] * length)
        assert found["seconds"] == length / 10
    assert "below Python" in side.log.read_text()


def test_a_side_goes_on_after_a_skip_and_a_failure(start: Callable[..., Side]) -> None:
    side = start()
    with pytest.raises(Skipped, match="not with these weights"):
        side.ask("skip")
    with pytest.raises(SideError, match="fail: ValueError: broken"):
        side.ask("fail")
    assert side.ask("read", model="m", weights="8bit", threads=1, prompt=[0])["seconds"] == 0.1


def test_a_side_that_ends_is_said_and_started_again(start: Callable[..., Side]) -> None:
    side = start()
    with pytest.raises(SideError, match=r"llama\.cpp ended with status 3"):
        side.ask("end")
    assert side.ask("read", model="m", weights="8bit", threads=1, prompt=[0])["seconds"] == 0.1


def test_sides_take_turns_and_one_that_fails_is_left_out(
    start: Callable[..., Side], tmp_path: Path
) -> None:
    turns: list[str] = []

    def asks(name: str) -> Callable[[Bench, int], Numbers]:
        def work(bench: Bench, repeat: int) -> Numbers:
            turns.append(f"{name}{repeat}")
            if name == "openvino" and repeat == 0:
                raise Skipped("has enough")
            return {name: float(repeat)}

        return work

    bench = Bench(
        sides={name: start(name) for name in SIDES},
        home=tmp_path,
        environment=None,
        data=None,
        run="",
    )
    measure = Measure(
        name="m", title="M", title_zh="M", unit="s", asks={s: asks(s) for s in SIDES}, seconds=1
    )
    found = run(bench, [measure], 2)
    assert turns == [
        *("everloop-1", "llama.cpp-1", "openvino-1"),
        *("everloop0", "llama.cpp0", "openvino0"),
        *("everloop1", "llama.cpp1"),
    ]
    assert found.values["m"] == {"everloop": [0.0, 1.0], "llama.cpp": [0.0, 1.0]}
    assert found.skipped["m"] == {"openvino": "has enough"}


@pytest.mark.parametrize("fast", [1, 4])
def test_a_peer_works_with_its_best_number_of_threads(
    start: Callable[..., Side],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fast: int,
) -> None:
    monkeypatch.setattr("bench.peers.bench.cores", lambda: 4)
    bench = Bench(
        sides={"llama.cpp": start(fast=fast)}, home=tmp_path, environment=None, data=None, run=""
    )
    bench.weights["small"] = weights.Weights(
        folder=tmp_path, config=weights.BARE, files={"Q8_0": tmp_path / "Q8_0.gguf"}
    )
    for _ in range(2):
        prompt = bench.prompt("small", 30)
        found = bench.ask("llama.cpp", "read", "small", "8bit", kind="read", prompt=prompt)
    assert found["asked"] == [1, 1, 4, 4, fast, fast]

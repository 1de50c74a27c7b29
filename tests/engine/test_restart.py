"""Workers that die, hang, can't start or must end, and what callers see of it."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from everloop.engine.native import NativeEngine
from everloop.errors import EngineUnavailable, EverloopError, InvalidRequest
from tests.engine.test_native import LONG, collect, greedy, options, text_of, until, with_engine


def test_a_killed_worker_is_replaced(model_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    secret = greedy(prompt="my secret prompt", max_tokens=200, request_id="req-77")

    async def body(engine: NativeEngine) -> None:
        want = text_of(await collect(await engine.generate(greedy())))
        waiting = [await engine.generate(secret) for _ in range(3)]
        scoring = asyncio.create_task(engine.embed(["好" * 50] * 30))
        await asyncio.sleep(0)
        assert engine._process is not None
        os.kill(engine._process.pid, signal.SIGKILL)
        for generation in waiting:
            with pytest.raises(EngineUnavailable) as caught:
                await collect(generation)
            assert caught.value.retry_after >= 1
            assert (await generation.cancel()).prompt_tokens > 0
        with pytest.raises(EngineUnavailable):
            await scoring
        assert not engine.status().ready
        with pytest.raises(EngineUnavailable):
            await engine.generate(greedy())
        await until(lambda: engine.status().ready)
        assert engine.status().restarts == 1
        assert text_of(await collect(await engine.generate(greedy()))) == want

    with_engine(model_dir, body)
    assert "secret" not in caplog.text


def test_a_hung_worker_is_replaced(model_dir: Path) -> None:
    async def body(engine: NativeEngine) -> None:
        generation = await engine.generate(LONG)
        assert engine._process is not None
        os.kill(engine._process.pid, signal.SIGSTOP)
        with pytest.raises(EngineUnavailable):
            await collect(generation)
        await until(lambda: engine.status().ready)
        await asyncio.sleep(2.5)  # idle is not hung
        await collect(await engine.generate(greedy()))
        assert engine.status().restarts == 1

    with_engine(model_dir, body, hang_seconds=2.0)


def test_a_defect_in_hearing_the_worker_replaces_it(
    model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(engine: NativeEngine) -> None:
        generation = await engine.generate(LONG)
        feed = engine._feed

        def broken(*_: object) -> None:
            engine._feed = feed  # type: ignore[method-assign]
            raise KeyError("a defect")

        engine._feed = broken  # type: ignore[method-assign]
        with pytest.raises(EngineUnavailable):
            await collect(generation)
        await until(lambda: engine.status().ready and engine.status().restarts == 1)
        await collect(await engine.generate(greedy()))

    with_engine(model_dir, body)
    assert "keeper failed" in caplog.text


def test_close_ends_what_runs_and_may_be_repeated(model_dir: Path) -> None:
    async def body(engine: NativeEngine) -> None:
        generation = await engine.generate(LONG)
        assert engine._process is not None
        pid = engine._process.pid
        await engine.close()
        await engine.close()
        with pytest.raises(EngineUnavailable):
            await collect(generation)
        with pytest.raises(EngineUnavailable):
            await engine.generate(greedy())
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        await engine.start()  # and it can be started again
        await collect(await engine.generate(greedy()))

    with_engine(model_dir, body)


def test_a_worker_outlives_ctrl_c_but_not_its_parent_which_has_no_torch(model_dir: Path) -> None:
    script = f"""
        import asyncio, os, signal, sys
        from pathlib import Path
        from everloop.engine.native import NativeEngine, NativeOptions
        async def main():
            engine = NativeEngine(Path({str(model_dir)!r}), "m", NativeOptions(threads=1))
            await engine.start()
            pid = engine._process.pid
            os.kill(pid, signal.SIGINT)
            await engine.embed(["still there"])
            assert not {{"torch", "numpy", "transformers"}} & set(sys.modules)
            print(pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    pid = int(done.stdout)

    async def gone() -> None:
        await until(lambda: not _alive(pid))

    asyncio.run(gone())


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_impossible_cache_is_refused_with_the_numbers(model_dir: Path) -> None:
    async def run() -> None:
        engine = NativeEngine(model_dir, "small", options(kv_tokens=10**12))
        with pytest.raises(InvalidRequest, match=r"needs .* MB .* are free. Set it to") as caught:
            await engine.start()
        assert caught.value.param == "kv_tokens"
        assert not engine.status().ready

    asyncio.run(run())


def test_a_broken_model_is_refused_with_the_reason(model_dir: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model_dir, broken)
    (broken / "model.safetensors").write_bytes(b"\0" * 100)

    async def run() -> None:
        with pytest.raises(EverloopError, match="safetensors"):
            await NativeEngine(broken, "b", options()).start()
        with pytest.raises(EverloopError, match="missing"):
            await NativeEngine(tmp_path, "b", options()).start()

    asyncio.run(run())

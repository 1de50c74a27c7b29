"""Keeps a worker running: starts it, replaces it when it dies or hangs, ends it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine

from everloop.engine.native.frames import Message
from everloop.engine.native.options import NativeOptions
from everloop.engine.native.process import Process
from everloop.errors import EngineUnavailable, EverloopError, InvalidRequest

log = logging.getLogger(__name__)

BACKOFF_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses before the worker is started again, longer for each one that died young."""

STABLE_SECONDS = 30.0
"""A worker that lived this long did not die young."""


class Keeper:
    """One worker after the other.

    `ready` gets what a worker says once its model is loaded, `hear` all that it says from then on,
    and `lost` why whoever waits for an answer gets none. `process` is the worker that is ready.
    """

    def __init__(
        self,
        name: str,
        setup: Message,
        options: NativeOptions,
        *,
        hear: Callable[[Message], None],
        ready: Callable[[Message], None],
        lost: Callable[[str], None],
    ) -> None:
        self._name, self._setup, self._options = name, setup, options
        self._hear, self._ready, self._lost = hear, ready, lost
        self._supervisor: asyncio.Task[None] | None = None
        self._first_start: asyncio.Future[None] | None = None
        self._start_seconds = 5.0
        self.process: Process | None = None
        self.restarts = 0
        self.detail = "not started"

    @property
    def running(self) -> bool:
        """Whether it was started and not closed since."""
        return self._supervisor is not None

    @property
    def patience(self) -> float:
        """Seconds after which a worker that is starting should be there."""
        return max(self._start_seconds, 1.0)

    async def start(self) -> None:
        """Returns when the first worker is ready; raises why it can't be."""
        if self._supervisor is None:
            self._first_start = asyncio.get_running_loop().create_future()
            self._supervisor = asyncio.create_task(self._supervise())
        assert self._first_start is not None
        await asyncio.shield(self._first_start)

    async def close(self) -> None:
        """Ends the worker. Idempotent."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)
        self.detail = "closed"

    async def _supervise(self) -> None:
        """Keeps a worker running until cancelled."""
        young = 0
        try:
            while True:
                await asyncio.sleep(BACKOFF_SECONDS[min(young, len(BACKOFF_SECONDS) - 1)])
                began = time.monotonic()
                try:
                    await self._live()
                except Exception:  # a defect of ours must not leave callers without an engine
                    log.exception("The engine's keeper failed and goes on.")
                young = 0 if time.monotonic() - began > STABLE_SECONDS else young + 1
                self.restarts += 1
                self.detail = "restarting"
        finally:
            self._lost("The engine is shutting down.")

    async def _live(self) -> None:
        """One worker's life, from its start to its end."""
        process = None
        try:
            began = time.monotonic()
            self.detail = "loading the model"
            process = await Process.start(self._setup, self._hear)
            if await self._loaded(process):
                self._start_seconds = time.monotonic() - began
                self.process, self.detail = process, "ready"
                self._started(None)
                await self._listen(process)
        except OSError as error:
            self._started(EngineUnavailable(f"The engine could not be started: {error}."))
        finally:
            self.process = None
            if process is not None:
                self._lost("The engine stopped and is starting again.")
                status = await _to_the_end(process.stop())
                log.info("The engine's process %d ended with status %d.", process.pid, status)

    async def _loaded(self, process: Process) -> bool:
        """Waits for the model; False (and a word in the log) if it can't be loaded."""
        await asyncio.wait((process.first,), timeout=self._options.start_seconds)
        message = process.first.result() if process.first.done() else None
        if message is not None and "ready" in message:
            self._ready(message["ready"])
            return True
        if message is None:
            error: EverloopError = EngineUnavailable(
                "The engine's process died or hung while it loaded the model."
            )
        else:
            error = _error(message["fatal"])
        log.error("The engine for %s did not start: %s", self._name, error)
        self.detail = f"not started: {error}"
        self._started(error)
        return False

    def _started(self, error: EverloopError | None) -> None:
        assert self._first_start is not None
        if self._first_start.done():
            return
        if error is None:
            self._first_start.set_result(None)
        else:
            self._first_start.set_exception(error)

    async def _listen(self, process: Process) -> None:
        """Until the worker is gone or silent."""
        try:
            await process.listen(self._options.hang_seconds)
        except TimeoutError:
            log.error("The engine's process %d is silent: it is replaced.", process.pid)


async def _to_the_end(work: Coroutine[None, None, int]) -> int:
    """Awaits `work` even if cancelled meanwhile: no process may be left behind."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def _error(fatal: Message) -> EverloopError:
    """The worker's own error, by the name of its class."""
    kind = InvalidRequest if fatal["kind"] == InvalidRequest.__name__ else EverloopError
    return kind(fatal["message"], param=fatal["param"])

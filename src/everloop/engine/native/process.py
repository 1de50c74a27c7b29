"""The parent's end of the worker: a child process behind a socket."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import cast

from everloop.engine.native.frames import Message, Unpacker, pack

WORKER = "everloop.engine.native.worker"
"""The module that is run; bench/ puts one there that only waits."""

PATIENCE = {"GOMP_SPINCOUNT": "100", "KMP_BLOCKTIME": "1"}
"""Threads that wait for each other must soon sleep: spinning, as OpenMP does for milliseconds,
makes an engine that shares its cores ten times slower."""


class Process(asyncio.Protocol):
    """One running worker. Its first message resolves `first` (None: it died before); `hear` gets
    the others as they come, many times a second, so there is no task or queue between."""

    def __init__(self, hear: Callable[[Message], None]) -> None:
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._unpacker = Unpacker()
        self._heard = self._loop.time()
        self._end: asyncio.Future[None] = self._loop.create_future()
        self.first: asyncio.Future[Message | None] = self._loop.create_future()
        self._child: subprocess.Popen[bytes]
        self._transport: asyncio.Transport

    @classmethod
    async def start(cls, setup: Message, hear: Callable[[Message], None]) -> Process:
        """Starts a worker and sends it its setup."""
        process = cls(hear)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                # -P and our own path: the same modules as here, and none that happens to lie in
                # the working directory.
                path = os.pathsep.join(map(os.path.abspath, sys.path))
                process._child = subprocess.Popen(
                    [sys.executable, "-P", "-m", WORKER, str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    env={**PATIENCE, **os.environ, "PYTHONPATH": path},
                )
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: process, sock=ours)
        process.send(setup)
        return process

    @property
    def pid(self) -> int:
        return self._child.pid

    def send(self, message: Message) -> None:
        """Queues a message; lost if the worker is gone."""
        if not self._transport.is_closing():
            self._transport.write(pack(message))

    async def listen(self, silence: float) -> None:
        """Returns when the worker is gone. Raises TimeoutError after `silence` seconds without a
        word of it, and what `hear` raised."""
        while not self._end.done():
            left = self._heard + silence - self._loop.time()
            if left <= 0:
                raise TimeoutError
            await asyncio.wait((self._end,), timeout=left)
        self._end.result()

    async def stop(self) -> int:
        """Ends the worker, which has nothing to save, and returns its exit status (negative: the
        signal that ended it)."""
        self._transport.abort()
        if self._child.poll() is None:
            self._child.kill()
        while (status := self._child.poll()) is None:
            await asyncio.sleep(0.01)
        await asyncio.wait((self._end,))
        return status

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        try:
            for message in self._unpacker.feed(data):
                if self.first.done():
                    self._hear(message)
                else:
                    self.first.set_result(message)
        except Exception as error:  # a defect of ours: `listen` raises it
            self._over(error)
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over(None)

    def _over(self, error: Exception | None) -> None:
        if not self.first.done():
            self.first.set_result(None)
        if self._end.done():
            return
        if error is None:
            self._end.set_result(None)
        else:
            self._end.set_exception(error)
            self._end.exception()  # seen, should nobody listen any more

"""The parent's end of the worker: a child process behind a socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys

from everloop.engine.native import frames
from everloop.engine.native.frames import Message

WORKER = "everloop.engine.native.worker"
"""The module that is run; bench/ puts one there that only waits."""

PATIENCE = {"GOMP_SPINCOUNT": "100", "KMP_BLOCKTIME": "1"}
"""Threads that wait for each other must soon sleep: spinning, as OpenMP does for milliseconds,
makes an engine that shares its cores ten times slower."""


class Process:
    """One running worker. `receive` returns None when it is gone."""

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._child, self._reader, self._writer = child, reader, writer

    @classmethod
    async def start(cls, setup: Message) -> Process:
        """Starts a worker and sends it its setup."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                # -P and our own path: the same modules as here, and none that happens to lie in
                # the working directory.
                path = os.pathsep.join(map(os.path.abspath, sys.path))
                child = subprocess.Popen(
                    [sys.executable, "-P", "-m", WORKER, str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    env={**PATIENCE, **os.environ, "PYTHONPATH": path},
                )
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=ours)
        process = cls(child, reader, writer)
        process.send(setup)
        return process

    @property
    def pid(self) -> int:
        return self._child.pid

    def send(self, message: Message) -> None:
        """Queues a message; lost if the worker is gone."""
        if not self._writer.is_closing():
            self._writer.write(frames.pack(message))

    async def receive(self) -> Message | None:
        """The worker's next message."""
        return await frames.read(self._reader)

    async def stop(self) -> int:
        """Ends the worker, which has nothing to save, and returns its exit status (negative: the
        signal that ended it)."""
        self._writer.close()
        if self._child.poll() is None:
            self._child.kill()
        while (status := self._child.poll()) is None:
            await asyncio.sleep(0.01)
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
        return status

"""Messages between the engine's two processes: JSON behind a 4-byte length, never pickle."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from typing import Any

import orjson

Message = dict[str, Any]

_LENGTH = struct.Struct("<I")
_CHUNK = 1 << 18


def pack(message: Message) -> bytes:
    """One frame."""
    body = orjson.dumps(message)
    return _LENGTH.pack(len(body)) + body


async def read(reader: asyncio.StreamReader) -> Message | None:
    """The next message, or None at the end."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        message: Message = orjson.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return message


class Channel:
    """The worker's blocking end."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._socket = sock
        self._buffer = bytearray()
        self.closed = False

    def send(self, message: Message) -> None:
        """Sends one message; sets `closed` if nobody is there any more."""
        try:
            self._socket.sendall(pack(message))
        except OSError:
            self.closed = True

    def receive(self, wait: float) -> list[Message]:
        """All messages that have arrived; waits up to `wait` seconds for the first."""
        found = self._take()
        while not self.closed:
            ready = select.select([self._socket], [], [], 0.0 if found else wait)[0]
            if not ready:
                break
            try:
                data = self._socket.recv(_CHUNK)
            except OSError:
                data = b""
            if not data:
                self.closed = True
                break
            self._buffer += data
            found += self._take()
            if not found:
                continue  # a large message: the rest is under way
        return found

    def _take(self) -> list[Message]:
        found: list[Message] = []
        at = 0
        while len(self._buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            end = at + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            found.append(orjson.loads(memoryview(self._buffer)[at + _LENGTH.size : end]))
            at = end
        del self._buffer[:at]
        return found

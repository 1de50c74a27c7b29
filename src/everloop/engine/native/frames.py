"""Messages between the engine's two processes: JSON behind a 4-byte length, never pickle."""

from __future__ import annotations

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


class Unpacker:
    """Bytes as they come to whole messages."""

    def __init__(self) -> None:
        self._rest = bytearray()  # of a message that is still under way

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes."""
        rest = self._rest
        rest += data if rest else b""
        source = rest or data
        found: list[Message] = []
        at, size = 0, len(source)
        with memoryview(source) as view:
            while size - at >= _LENGTH.size:
                start = at + _LENGTH.size
                end = start + _LENGTH.unpack_from(source, at)[0]
                if end > size:
                    break
                found.append(orjson.loads(view[start:end]))
                at = end
        if source is rest:
            del rest[:at]
        else:
            rest += data[at:]
        return found


class Channel:
    """The worker's blocking end."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._socket = sock
        self._unpacker = Unpacker()
        self.closed = False

    def send(self, message: Message) -> None:
        """Sends one message; sets `closed` if nobody is there any more."""
        try:
            self._socket.sendall(pack(message))
        except OSError:
            self.closed = True

    def receive(self, wait: float) -> list[Message]:
        """All messages that have arrived; waits up to `wait` seconds for the first."""
        found: list[Message] = []
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
            found += self._unpacker.feed(data)
        return found

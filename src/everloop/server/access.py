"""Who may call: every path needs a key unless it is on the open list. Decided on the path that is
routed (`scope["path"]`), never on a URL that a Host header could bend.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter

from starlette.types import ASGIApp, Receive, Scope, Send

from everloop.errors import AuthenticationFailed, Overloaded
from everloop.server.context import record_of
from everloop.server.service import Service
from everloop.store.keys import Key

OPEN = frozenset({"/", "/health", "/ready"})
"""Paths that answer without a key."""

FRESH_SECONDS = 0.5
CACHED = 1024


class Access:
    """Wraps the app: 401 without a valid key, 429 when a key has too many requests running."""

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self.app = app
        self.service = service
        self._known: dict[bytes, tuple[float, Key]] = {}
        self._asked: dict[bytes, asyncio.Task[Key | None]] = {}
        self._running: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in OPEN):
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            raise AuthenticationFailed("Only HTTP is served here.")
        key = await self._key(scope)
        record_of(scope).key = key.id
        most = self.service.settings.max_requests_per_key
        if self._running[key.id] >= most:
            raise Overloaded(
                f"This key has {most} requests running, which is its limit "
                "(max_requests_per_key). Wait for some to finish."
            )
        self._running[key.id] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._running[key.id] -= 1
            if not self._running[key.id]:
                del self._running[key.id]

    async def _key(self, scope: Scope) -> Key:
        sent = [value for name, value in scope["headers"] if name == b"authorization"]
        if not sent:
            raise AuthenticationFailed(
                "You didn't provide an API key. You need to provide your API key in an "
                "Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY). "
                "`everloop keys create` makes one."
            )
        scheme, _, text = sent[0].partition(b" ")
        key = None
        if len(sent) == 1 and scheme.lower() == b"bearer":
            key = await self._verified(text.strip())
        if key is None:
            raise AuthenticationFailed(
                "Incorrect API key provided. `everloop keys list` shows the keys that are valid, "
                "`everloop keys create` makes one."
            )
        return key

    async def _verified(self, text: bytes) -> Key | None:
        # The whole key is hashed: two keys with the same beginning never meet.
        digest = hashlib.sha256(text).digest()
        known = self._known.get(digest)
        if known is not None and time.monotonic() - known[0] < FRESH_SECONDS:
            return known[1]
        asked = self._asked.get(digest)
        if asked is None:  # else one question is enough for all who wait for its answer
            asked = asyncio.create_task(self._ask(digest, text.decode("latin-1")))
            self._asked[digest] = asked
        return await asyncio.shield(asked)

    async def _ask(self, digest: bytes, text: str) -> Key | None:
        try:
            key = await asyncio.to_thread(self.service.verify, text)
        finally:
            del self._asked[digest]
        if key is None:
            self._known.pop(digest, None)
        else:
            if len(self._known) >= CACHED:
                self._known.clear()
            self._known[digest] = (time.monotonic(), key)
        return key

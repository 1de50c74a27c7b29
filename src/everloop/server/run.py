"""Runs the server in this process: home locked, key there, port bound, engine loaded, then served
until SIGTERM or Ctrl-C, when running answers get `shutdown_grace` to finish.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import ipaddress
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from everloop.errors import InvalidRequest
from everloop.server import log
from everloop.server.app import create_app
from everloop.server.protocol import allow_connections, guarded
from everloop.server.service import Pool
from everloop.settings import Settings
from everloop.store import keys
from everloop.store.database import Database
from everloop.store.home import server_lock
from everloop.store.registry import Registry

KEEP_ALIVE = 75  # seconds; longer than clients keep a connection, so that they close it first
FORCED = 2.0  # seconds between the end of the engines and the end of everything


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """What the owner is told once questions can be answered."""

    base_url: str
    model: str
    new_key: str | None  # its text, this one time; None if the home has keys already
    notes: tuple[str, ...]  # what was decided that the owner might not expect


def serve(
    settings: Settings,
    announce: Callable[[Listening], None] | None = None,
    *,
    engines: Callable[[Registry, Settings], Pool] | None = None,
) -> None:
    """Serves until told to stop; returns after a clean end.

    `announce` is called once, when questions can be answered; `engines` makes the pool (ours, if
    it is None). Raises InvalidRequest (host, port), NotFound (model), HomeInUse, and what loading
    the default model raises.
    """
    log.configure(settings.log_level)
    with (
        server_lock(settings.home),
        contextlib.closing(Database(settings.home)) as db,
        _bound(settings) as listener,
    ):
        _check_exposure(settings, db)
        if settings.api_key is not None:
            keys.create_first(db, settings.api_key)
        registry = Registry(db, default_model=settings.model)

        def ready(model: str) -> None:
            # Only now, so that a key is never made without being shown.
            made = keys.create_first(db)
            listening = Listening(
                base_url=_base_url(settings.host, settings.port),
                model=model,
                new_key=made[0] if made else None,
                notes=_notes(settings, db),
            )
            if announce is not None:
                announce(listening)

        pool = (engines or _native_engines)(registry, settings)
        server = Server(settings, db, registry, pool, ready)
        server.run(sockets=[listener])
        if server.failure is not None:
            raise server.failure


def _native_engines(registry: Registry, settings: Settings) -> Pool:
    from everloop.engine.pool import EnginePool

    if settings.remote_url is None:
        registry.get(settings.model)  # says what there is, before anything is loaded
    return EnginePool(registry, settings)


class Server(uvicorn.Server):
    """uvicorn with our protocol, engines that live as long as it does, and exit code 0."""

    def __init__(
        self,
        settings: Settings,
        db: Database,
        registry: Registry,
        pool: Pool,
        ready: Callable[[str], None],
    ) -> None:
        self.settings, self.pool, self.ready = settings, pool, ready
        self.failure: Exception | None = None
        app = create_app(
            settings,
            pool=pool,
            registry=registry,
            verify=lambda text: keys.verify(db, text),
            lifespan=self._lifespan,
        )
        allow_connections(settings.max_connections)
        super().__init__(
            uvicorn.Config(
                app,
                http=guarded(settings),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=2048,
                h11_max_incomplete_event_size=settings.max_header_bytes,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=settings.shutdown_grace + FORCED,  # type: ignore[arg-type]
            )
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(self._load())
        try:
            yield
        finally:
            loading.cancel()
            await self.pool.close()

    async def _load(self) -> None:
        """Loads the default model while the port already answers; then says that all is ready."""
        try:
            engine = await self.pool.get(self.settings.model)
            while not self.started:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(self.ready, engine.info.id)
            _rest_garbage()
            log.event("ready", model=engine.info.id, pid=os.getpid())
        except Exception as error:
            self.failure = error
            self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.event("stopping", pid=os.getpid())
        end = asyncio.create_task(self._end_engines())
        await super().shutdown(sockets)
        end.cancel()
        log.event("stopped", pid=os.getpid())

    async def _end_engines(self) -> None:
        """After the grace, engines end first: what still runs gets a proper error."""
        await asyncio.sleep(self.settings.shutdown_grace)
        await self.pool.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, without raising the signal again at the end: a clean stop is exit 0."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _rest_garbage() -> None:
    """What is there now stays: looking through it again and again for garbage took a tenth of a
    busy server's time. Requests leave next to no cycles, so looking seldom is enough."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _check_exposure(settings: Settings, db: Database) -> None:
    """Others can reach a server that isn't on loopback: it must have a key its owner knows."""
    if _loopback(settings.host) or settings.api_key is not None:
        return
    if not any(key.revoked is None for key in keys.list_keys(db)):
        raise InvalidRequest(
            f"host is {settings.host}, which other machines can reach, and there is no key yet. "
            "First run `everloop keys create NAME`, or set EVERLOOP_API_KEY.",
            param="host",
        )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _notes(settings: Settings, db: Database) -> tuple[str, ...]:
    """What was decided about keys that the owner might not expect."""
    if settings.api_key is not None and keys.verify(db, settings.api_key) is None:
        return (
            "EVERLOOP_API_KEY is none of this home's keys, and it only becomes one in a new home. "
            "`everloop keys create NAME` makes another key.",
        )
    if not any(key.revoked is None for key in keys.list_keys(db)):
        return ("Every key is revoked. `everloop keys create NAME` makes one.",)
    return ()


@contextlib.contextmanager
def _bound(settings: Settings) -> Iterator[socket.socket]:
    host, port = settings.host.strip("[]"), settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            other = port + 1 if port < 65535 else port - 1
            repair, param = f"port {port} is in use: try --port {other}.", "port"
        elif error.errno == errno.EACCES:
            repair, param = f"port {port} needs root: try --port 8400.", "port"
        else:
            repair, param = f"{error.strerror}: use an address of this machine.", "host"
        raise InvalidRequest(f"Can't listen on {settings.host}: {repair}", param=param) from None
    with listener:
        listener.setblocking(False)
        yield listener


def _base_url(host: str, port: int) -> str:
    """The URL to paste; for an address that means all of them, this machine's own."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "[::]": "[::1]"}.get(host, host)
    if ":" in shown and not shown.startswith("["):
        shown = f"[{shown}]"
    return f"http://{shown}:{port}/v1"

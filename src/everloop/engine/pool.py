"""Names to running engines: loaded when first asked for, the longest idle one unloaded for room."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from everloop.engine.interface import Engine
from everloop.engine.native import NativeEngine, NativeOptions
from everloop.errors import (
    EngineUnavailable,
    EverloopError,
    KeyRefused,
    NotFound,
    Overloaded,
)
from everloop.settings import Settings
from everloop.store.registry import ModelVersion, Registry

MAX_LOADED = 2
"""Native models in memory at once."""

MAX_REMOTE = 32
"""Names of a remote server remembered at once; they cost next to nothing."""

FAILURE_SECONDS = 3.0
"""A model that didn't load is not tried again for this long."""


@dataclass(slots=True)
class _Entry:
    """An engine and the task that starts it, shared by all who ask meanwhile."""

    engine: Engine
    starting: asyncio.Task[None]
    failed: float = 0.0  # when, on the monotonic clock


class EnginePool:
    """Engines by model name, version or alias. For one event loop."""

    def __init__(
        self, registry: Registry, settings: Settings, *, max_loaded: int = MAX_LOADED
    ) -> None:
        self._registry, self._settings = registry, settings
        self._limit = MAX_REMOTE if settings.remote_url else max_loaded
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # least recently asked for first
        self._closed = False

    async def get(self, name: str) -> Engine:
        """The running engine for `name`.

        Raises NotFound for an unknown name, EngineUnavailable if it can't be started, Overloaded
        if all engines that fit are busy with other models.
        """
        if self._closed:
            raise EngineUnavailable("The engines are shutting down.")
        if self._settings.remote_url:
            model = self._settings.remote_model or name
            key, make = model, lambda: self._remote(model)
        else:
            version = self._registry.resolve(name)
            if version is None:
                raise NotFound(
                    f"The model `{name}` does not exist.", param="model", code="model_not_found"
                )
            key, make = version.id, lambda: self._native(version)
        entry = self._entry(key, make)
        try:
            if not entry.starting.done():
                await asyncio.shield(entry.starting)
            entry.starting.result()
        except EverloopError as error:
            entry.failed = entry.failed or time.monotonic()
            kind = KeyRefused if isinstance(error, KeyRefused) else EngineUnavailable
            raise kind(
                f"The model `{name}` can't be loaded: {error.message}",
                retry_after=FAILURE_SECONDS,
            ) from error
        except asyncio.CancelledError:
            if entry.starting.cancelled():  # closed meanwhile; else the caller was cancelled
                raise EngineUnavailable("The engines are shutting down.") from None
            raise
        return entry.engine

    def loaded(self) -> Mapping[str, Engine]:
        """Engines that have started, by NAME@VERSION (a remote one by its name)."""
        return {
            key: entry.engine
            for key, entry in self._entries.items()
            if entry.starting.done() and not entry.failed
        }

    async def close(self) -> None:
        """Ends every engine. Idempotent."""
        self._closed = True
        entries = list(self._entries.values())
        self._entries.clear()
        await asyncio.gather(*[_end(entry) for entry in entries])

    def _entry(self, key: str, make: Callable[[], Engine]) -> _Entry:
        entry = self._entries.get(key)
        if entry is not None and entry.failed:
            if time.monotonic() - entry.failed < FAILURE_SECONDS:
                return entry
            del self._entries[key]
            entry = None
        if entry is None:
            engine = make()
            starting = asyncio.create_task(_start(engine, after=self._make_room()))
            entry = self._entries[key] = _Entry(engine, starting)
        self._entries.move_to_end(key)
        return entry

    def _make_room(self) -> _Entry | None:
        """Takes out the longest idle engine if there is no room for one more."""
        if len(self._entries) < self._limit:
            return None
        for key, entry in self._entries.items():
            status = entry.engine.status()
            if entry.starting.done() and not status.running and not status.waiting:
                return self._entries.pop(key)
        raise Overloaded(
            f"{self._limit} other models are loaded and busy. Try again soon.", retry_after=2.0
        )

    def _native(self, version: ModelVersion) -> Engine:
        settings = self._settings
        options = NativeOptions(
            quantization=settings.quantization,
            device=settings.device,
            cache_dir=str(settings.home / "cache" / "packed"),
            threads=settings.threads,
            max_running=settings.max_running,
            max_queue=settings.max_queue,
            kv_tokens=settings.kv_tokens,
            kv_bits=settings.kv_bits,
            prefill_chunk=settings.prefill_chunk,
            drafting=settings.drafting == "on",
        )
        directory, adapter = version.path, None
        if version.base is not None:
            base = self._registry.resolve(version.base)
            if base is None:
                raise EngineUnavailable(
                    f"The model `{version.id}` is an adapter of `{version.base}`, which is gone."
                )
            directory, adapter = base.path, version.path
        return NativeEngine(
            directory, version.name, options, adapter_dir=adapter, created=version.created
        )

    def _remote(self, model: str) -> Engine:
        from everloop.engine.remote import RemoteEngine  # brings an HTTP client with it

        assert self._settings.remote_url is not None
        return RemoteEngine(self._settings.remote_url, self._settings.remote_key, model)


async def _start(engine: Engine, after: _Entry | None) -> None:
    """Starts an engine when the one that made room for it has left."""
    if after is not None:
        await _end(after)
    await engine.start()


async def _end(entry: _Entry) -> None:
    """Closes an engine, also one that is still starting."""
    entry.starting.cancel()
    await asyncio.gather(entry.starting, return_exceptions=True)
    await entry.engine.close()

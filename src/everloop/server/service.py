"""What the routes work with: the models there are, and the engines that run them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from starlette.requests import Request

import everloop
from everloop.engine.interface import Engine, ModelInfo
from everloop.errors import InvalidRequest, NotFound
from everloop.server.body import read_json
from everloop.server.context import record_of
from everloop.server.metrics import Metrics
from everloop.server.parameters import Parameters
from everloop.settings import Settings
from everloop.store.keys import Key
from everloop.store.registry import Registry

P = TypeVar("P", bound=Parameters)


class Pool(Protocol):
    """The engines, loaded on demand (`engine.pool.EnginePool`)."""

    async def get(self, name: str) -> Engine:
        """The running engine of a model or alias. Raises NotFound, EngineUnavailable."""

    def loaded(self) -> Mapping[str, Engine]:
        """Engines that are running now, by model. Never blocks."""

    async def close(self) -> None:
        """Ends every engine. Idempotent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Everything a route needs. `verify` gives the key with a text, or None; it may block."""

    settings: Settings
    pool: Pool
    registry: Registry
    verify: Callable[[str], Key | None]
    metrics: Metrics

    async def engine(self, request: Request[Any], name: str) -> Engine:
        """The engine for `model`. Raises NotFound as OpenAI words it, and what `Pool.get` does."""
        try:
            engine = await self.pool.get(name)
        except NotFound:
            raise no_model(name) from None
        # A remote server's names are whatever callers write: not for logs and labels.
        known = self.settings.remote_url is None or self.settings.remote_model is not None
        record_of(request.scope).model = engine.info.id if known else "remote"
        return engine

    async def read(self, request: Request[Any], kind: type[P], engine: str | None = None) -> P:
        """The body, checked. Old clients name the model in the path (`engine`) instead of in it."""
        body = await read_json(request, self.settings.max_body_bytes)
        if engine is not None:
            if body.get("model") not in (None, engine):
                raise InvalidRequest(
                    "The path names one model and 'model' another. Leave 'model' out.",
                    param="model",
                )
            body["model"] = engine
        parameters = kind.parse(body)
        parameters.check(self.settings)
        return parameters


def no_model(name: str) -> NotFound:
    """OpenAI's 404 for a model."""
    shown = name if len(name) <= 100 else name[:100] + "…"
    return NotFound(
        f"The model `{shown}` does not exist or you do not have access to it. "
        "GET /v1/models lists those that do.",
        code="model_not_found",
    )


def fingerprint(info: ModelInfo) -> str:
    """Changes when the model or the program does."""
    text = f"{info.id} {info.created} {everloop.__version__}"
    return "fp_" + hashlib.sha256(text.encode()).hexdigest()[:10]

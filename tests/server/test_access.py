"""Keys: every path needs one, whatever the request looks like, but for an explicit list."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import BaseRoute

from everloop.server.access import OPEN, Access
from everloop.server.app import create_app
from everloop.settings import Settings
from everloop.store import keys
from everloop.store.database import Database
from everloop.store.keys import Key
from everloop.store.registry import Registry
from tests.server.ask import error
from tests.server.process import KEY, Running
from tests.server.scripted import ScriptedPool


def app_in(folder: Path) -> tuple[FastAPI, Database]:
    settings = Settings(home=folder)
    db = Database(folder)
    registry = Registry(db)
    pool = ScriptedPool(registry, settings)
    app = create_app(
        settings, pool=pool, registry=registry, verify=lambda text: keys.verify(db, text)
    )
    return app, db


def routes_of(app: FastAPI) -> list[tuple[str, str]]:
    """(method, path) of everything that is mounted, from the app itself."""
    found: list[tuple[str, str]] = []

    def walk(routes: list[BaseRoute]) -> None:
        for route in routes:
            inner: Any = getattr(route, "original_router", None) or getattr(route, "app", None)
            if getattr(route, "methods", None):
                path = route.path  # type: ignore[attr-defined]
                found.extend((method, path) for method in route.methods)  # type: ignore[attr-defined]
            elif inner is not None:
                walk(inner.routes)

    walk(app.routes)
    return found


def test_the_open_list_is_short() -> None:
    assert {"/", "/health", "/ready"} == OPEN


def test_every_route_without_a_key_is_a_401(server: Running, tmp_path: Path) -> None:
    app, db = app_in(tmp_path / "here")
    routes = routes_of(app)
    db.close()
    assert len(routes) >= 17, routes
    with httpx2.Client(base_url=server.url) as http:
        for method, path in routes:
            path = path.replace("{model:path}", "tiny").replace("{engine:path}", "tiny")
            response = http.request(method, path)
            if path in OPEN:
                assert response.status_code == 200, path
            else:
                assert response.status_code == 401, path
                assert error(response)["code"] == "invalid_api_key"
                assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/docs", "/redoc", "/openapi.json", "/metrics", "/v1", "/.env"]
)
def test_unknown_paths_say_nothing_without_a_key(server: Running, path: str) -> None:
    assert httpx2.get(server.url + path).status_code == 401


@pytest.mark.parametrize("host", ["health", "x/health", "127.0.0.1/health?", "a b", "", "/ready#"])
def test_a_host_header_opens_nothing(server: Running, host: str) -> None:
    for path in ("/v1/models", "/metrics"):
        with server.connect() as raw:
            raw.sendall(
                f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
            )
            answer = b"".join(iter(lambda raw=raw: raw.recv(65536), b""))  # type: ignore[misc]
        assert answer.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 400 ")), answer


@pytest.mark.parametrize(
    "path",
    [
        "/health/../metrics",
        "/health/..%2fmetrics",
        "/%2e/metrics",
        "//metrics",
        "/metrics/",
        "/metrics;/health",
        "/metrics%3f/health",
        "/ready%00",
    ],
)
def test_a_path_spelled_oddly_opens_nothing(server: Running, path: str) -> None:
    with server.connect() as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 401 "), answer


def test_keys_that_are_not_quite_right(server: Running) -> None:
    with httpx2.Client(base_url=server.url) as http:
        for value in (
            "",
            "Bearer",
            f"Basic {KEY}",
            KEY,
            f"Bearer {KEY}x",
            f"Bearer {KEY[:-1]}",
            f"Bearer {KEY[:20]}",
            f"Bearer {KEY.upper()}",
            "Bearer ' OR 1=1 --",
        ):
            response = http.get("/v1/models", headers={"authorization": value})
            assert response.status_code == 401, value
            assert KEY[:-1] not in response.text
        twice = [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer x")]
        assert http.get("/v1/models", headers=twice).status_code == 401
        fine = {"authorization": f"bearer  {KEY}"}
        assert http.get("/v1/models", headers=fine).status_code == 200


@given(st.binary(max_size=60).filter(lambda b: not set(b) & {0, 10, 13}))
def test_no_header_is_a_server_error(server: Running, value: bytes) -> None:
    with server.connect() as raw:
        head = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + value
        raw.sendall(head + b"\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 400 ")), answer[:100]


def test_a_revoked_key_ends_and_a_key_with_spaces_works(server: Running) -> None:
    db = Database(Path(server.log.parent) / "home")
    text, key = keys.create(db, "spaces", plaintext="My API Key")
    with httpx2.Client(base_url=server.url, headers={"authorization": f"Bearer {text}"}) as http:
        assert http.get("/v1/models").status_code == 200
        keys.revoke(db, key.id)
        assert server_forgets(http)
    db.close()


def server_forgets(http: httpx2.Client) -> bool:
    """Whether the key stops working before long."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if http.get("/v1/models").status_code == 401:
            return True
        time.sleep(0.1)
    return False


def test_one_question_answers_all_who_wait_for_it(tmp_path: Path) -> None:
    app, db = app_in(tmp_path)
    asked: list[str] = []
    key = keys.create(db, "one")[1]

    def verify(text: str) -> Key | None:
        asked.append(text)
        time.sleep(0.05)
        return key if text == "right" else None

    access = Access(app, service=replace(app.state.service, verify=verify))

    async def main() -> None:
        waiting = [asyncio.create_task(access._verified(b"right")) for _ in range(10)]
        wrong = [asyncio.create_task(access._verified(b"wrong")) for _ in range(3)]
        await asyncio.sleep(0.01)
        waiting[0].cancel()  # the others still get their answer
        assert await asyncio.gather(*waiting[1:]) == [key] * 9
        assert await asyncio.gather(*wrong) == [None] * 3
        assert await access._verified(b"right") == key  # known for a while
        assert await access._verified(b"wrong") is None  # asked again: it may have been made

    asyncio.run(main())
    db.close()
    assert sorted(asked) == ["right", "wrong", "wrong"]

"""One server on the scripted engine for all tests that only ask it questions."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.server.process import Running, scripted


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with scripted(tmp_path_factory.mktemp("server")) as running:
        yield running
        assert not running.logged(event="defect"), running.log.read_text()


@pytest.fixture
def http(server: Running) -> Iterator[httpx2.Client]:
    with server.client() as client:
        yield client

"""Servers for tests that only ask questions: one on the scripted engine, one on the native one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.server.process import Running, native, scripted


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with scripted(tmp_path_factory.mktemp("server")) as running:
        yield running
        assert not running.logged(event="defect"), running.log.read_text()


@pytest.fixture
def http(server: Running) -> Iterator[httpx2.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model's folder, as training would leave it."""
    from everloop.model import checkpoint, early_exit
    from everloop.model.tokenizer import Tokenizer
    from everloop.model.train_tokenizer import train_tokenizer
    from tests.engine.conftest import CONTEXT, TEXTS, random_weights, small_config
    from tests.engine.small_exits import EXITS

    parts = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(iter(TEXTS * 3), parts, vocab_size=330, context_length=CONTEXT)
    tokenizer = Tokenizer.load(parts)
    config = small_config(tokenizer.vocab_size, tokenizer.eos_ids)
    target = tmp_path_factory.mktemp("models") / "small"
    checkpoint.save(target, random_weights(config), config, tokenizer_dir=parts)
    (target / early_exit.FILE).write_text(EXITS.to_json(), encoding="utf-8")
    return target


@pytest.fixture(scope="session")
def native_server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with native(tmp_path_factory.mktemp("native"), model) as running:
        yield running
        assert not running.logged(event="defect"), running.log.read_text()

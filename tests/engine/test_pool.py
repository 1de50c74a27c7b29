from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import torch

from everloop.engine.interface import Engine, GenerateRequest, Sampling
from everloop.engine.pool import EnginePool
from everloop.errors import EngineUnavailable, NotFound, Overloaded
from everloop.model import checkpoint, lora
from everloop.settings import Settings
from everloop.store.database import Database
from everloop.store.registry import Registry
from tests.engine.peer import Peer, Request


@pytest.fixture
def registry(model_dir: Path, home: Path, tmp_path: Path) -> Registry:
    """Two names of the small model, a broken one, and an adapter of the first."""
    made = Registry(Database(home), embedded_dir=tmp_path / "none", default_model="first")
    made.register("first", model_dir, "test")
    made.register("second", model_dir, "test")
    broken = tmp_path / "broken"
    shutil.copytree(model_dir, broken)
    (broken / "model.safetensors").write_bytes(b"nothing")
    made.register("broken", broken, "test")
    made.register("tuned", adapter(model_dir, tmp_path / "adapter"), "test", "first", "lora")
    made.set_alias("gpt-4", "first")
    return made


def adapter(model_dir: Path, target: Path) -> Path:
    _, model = checkpoint.load(model_dir)
    lora.attach(model, lora.LoraConfig(rank=2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    lora.save(target, model)
    return target


def with_pool(
    registry: Registry, body: Callable[[EnginePool], Awaitable[None]], **changes: object
) -> None:
    settings = Settings(threads=1, max_running=4, max_queue=4)
    limit = int(changes.pop("max_loaded", 1))  # type: ignore[call-overload]
    if changes:
        settings = Settings(**changes)  # type: ignore[arg-type]

    async def run() -> None:
        pool = EnginePool(registry, settings, max_loaded=limit)
        try:
            await body(pool)
        finally:
            await pool.close()

    asyncio.run(run())


async def answer(engine: Engine) -> str:
    request = GenerateRequest(
        prompt="今天天气", max_tokens=8, sampling=Sampling(temperature=0), ignore_eos=True
    )
    return "".join([chunk.text async for chunk in await engine.generate(request)])


def test_names_aliases_adapters_and_room_for_one(registry: Registry) -> None:
    async def body(pool: EnginePool) -> None:
        with pytest.raises(NotFound):
            await pool.get("nobody")
        assert not pool.loaded()
        one, again, alias = await asyncio.gather(*map(pool.get, ("first", "default", "gpt-4")))
        assert one is again is alias
        assert list(pool.loaded()) == ["first@1"]
        plain = await answer(one)

        busy = await one.generate(GenerateRequest(prompt="x", max_tokens=200, ignore_eos=True))
        with pytest.raises(Overloaded):
            await pool.get("tuned")
        await busy.cancel()
        tuned = await pool.get("tuned")
        assert tuned.info.id == "tuned"
        assert list(pool.loaded()) == ["tuned@1"]
        assert await answer(tuned) != plain
        with pytest.raises(EngineUnavailable):
            await one.generate(GenerateRequest(prompt="x"))

    with_pool(registry, body)


def test_a_model_that_does_not_load(registry: Registry) -> None:
    async def body(pool: EnginePool) -> None:
        for _ in range(2):
            with pytest.raises(EngineUnavailable, match=r"broken.*safetensors"):
                await pool.get("broken")
        assert not pool.loaded()
        await pool.get("second")

    with_pool(registry, body)


def test_close_while_loading(registry: Registry) -> None:
    async def body(pool: EnginePool) -> None:
        loading = asyncio.create_task(pool.get("first"))
        await asyncio.sleep(0.1)
        await pool.close()
        with pytest.raises(EngineUnavailable):
            await loading
        with pytest.raises(EngineUnavailable):
            await pool.get("first")

    with_pool(registry, body)


def test_a_remote_server_makes_the_tokens_for_every_name(registry: Registry) -> None:
    async def models(request: Request) -> None:
        await request.json({"data": []})

    async def complete(request: Request) -> None:
        text = f"from {request.body['model']}"
        await request.events({"choices": [{"text": text, "finish_reason": "stop"}]})

    async def run() -> None:
        async with Peer() as peer:
            peer.on("/v1/models", models)
            peer.on("/v1/completions", complete)
            for name, want in ((None, "gpt-9"), ("big", "big")):
                settings = Settings(remote_url=peer.url, remote_key="k", remote_model=name)
                pool = EnginePool(registry, settings)
                engine = await pool.get("gpt-9")
                assert await answer(engine) == f"from {want}"
                assert await pool.get("gpt-9") is engine
                assert list(pool.loaded()) == [want]
                await pool.close()

    asyncio.run(run())

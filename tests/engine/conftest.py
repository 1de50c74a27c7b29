"""A small real model for the engine's tests: random weights, a trained bilingual tokenizer."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from everloop.engine.native.backend import Backend, Choice
from everloop.engine.native.compiled import CompiledBackend
from everloop.engine.native.core import Core
from everloop.engine.native.eager import EagerBackend
from everloop.engine.native.jobs import Event, GenerateJob, Job
from everloop.engine.native.packed import open_packed
from everloop.engine.native.runner import Runner
from everloop.engine.native.worker import text_table
from everloop.model import checkpoint
from everloop.model.config import ModelConfig
from everloop.model.tokenizer import Tokenizer
from everloop.model.train_tokenizer import train_tokenizer
from everloop.model.transformer import Transformer

CONTEXT = 256
BLOCK = 16

TEXTS = (
    "今天天气怎么样？今天天气很好，我们去公园走走吧。明天可能会下雨，请带上雨伞。",
    "The weather is fine today, so we walk to the park. Tomorrow it may rain, take an umbrella.",
    "你好！我是一个语言模型，可以回答问题、翻译文字、写诗。 Hello, I am a language model.",
)


def small_config(vocab_size: int, eos: tuple[int, ...]) -> ModelConfig:
    return ModelConfig(
        model_type="qwen3",
        vocab_size=vocab_size,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        max_position_embeddings=CONTEXT,
        qk_norm=True,
        eos_token_ids=eos,
    )


def random_weights(config: ModelConfig, seed: int = 0) -> Transformer:
    """Every parameter random, logits wide enough that greedy output isn't one token forever."""
    torch.manual_seed(seed)
    model = Transformer(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * 1.5 * parameter.shape[1] ** -0.5)
    return model.eval()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model directory, as `finetune` would leave it."""
    parts = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(iter(TEXTS * 3), parts, vocab_size=330, context_length=CONTEXT)
    tokenizer = Tokenizer.load(parts)
    config = small_config(tokenizer.vocab_size, tokenizer.eos_ids)
    target = tmp_path_factory.mktemp("models") / "small"
    checkpoint.save(target, random_weights(config), config, tokenizer_dir=parts)
    return target


@pytest.fixture(scope="session")
def tokenizer(model_dir: Path) -> Tokenizer:
    return Tokenizer.load(model_dir)


@pytest.fixture(scope="session")
def model(model_dir: Path) -> Transformer:
    return checkpoint.load(model_dir)[1]


MakeBackend = Callable[[int], Backend]


def eager_backend(model_dir: Path, tokens: int) -> EagerBackend:
    """Float32 in PyTorch, which the model itself is the oracle for."""
    config, weights = checkpoint.load(model_dir)
    return EagerBackend(Runner(config, weights, blocks=tokens // BLOCK, block_size=BLOCK))


@pytest.fixture
def exact_core(model_dir: Path) -> Callable[..., Core]:
    """A fresh core over the small model in float32."""

    def make(
        *, tokens: int = 1024, max_running: int = 16, chunk: int = 64, drafting: bool = True
    ) -> Core:
        backend = eager_backend(model_dir, tokens)
        return Core(backend, max_running=max_running, chunk=chunk, drafting=drafting)

    return make


@pytest.fixture(scope="session", params=["eager", "int8", "int4"])
def make_backend(
    request: pytest.FixtureRequest, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> MakeBackend:
    """A fresh backend over the small model whose cache holds so many tokens: every kind."""
    if request.param == "eager":
        return functools.partial(eager_backend, model_dir)
    bits = int(request.param[-1])
    packed = open_packed(model_dir, None, bits=bits, cache=tmp_path_factory.mktemp("packed"))

    def compiled(tokens: int) -> Backend:
        blocks = tokens // CompiledBackend.block_size
        return CompiledBackend(packed, blocks=blocks, threads=1, max_rows=2048)

    return compiled


@pytest.fixture
def make_core(make_backend: MakeBackend) -> Callable[..., Core]:
    """A fresh core over the small model; `tokens` is what its cache holds."""

    def make(
        *, tokens: int = 1024, max_running: int = 16, chunk: int = 64, drafting: bool = True
    ) -> Core:
        backend = make_backend(tokens)
        return Core(backend, max_running=max_running, chunk=chunk, drafting=drafting)

    return make


@pytest.fixture(scope="session")
def table(tokenizer: Tokenizer) -> list[bytes]:
    return text_table(tokenizer)


def generate_job(
    key: int, prompt: list[int], table: list[bytes], max_tokens: int = 20, **options: object
) -> GenerateJob:
    """A greedy job unless `options` say otherwise."""
    choice = options.pop("choice", None) or Choice(temperature=0.0)
    return GenerateJob(
        key,
        prompt=prompt,
        max_tokens=max_tokens,
        choice=choice,  # type: ignore[arg-type]
        seed=int(options.pop("seed", 0)),  # type: ignore[call-overload]
        token_bytes=lambda i: table[i],
        **options,  # type: ignore[arg-type]
    )


def drain(core: Core, *jobs: Job, steps: int = 10_000) -> dict[int, list[Event]]:
    """Submits jobs and steps until nothing is left; events by key."""
    for job in jobs:
        core.submit(job)
    events: dict[int, list[Event]] = {}
    while core.busy:
        steps -= 1
        assert steps > 0, "the core makes no progress"
        for event in core.step():
            events.setdefault(event.key, []).append(event)
    return events


def ids_of(events: list[Event]) -> list[int]:
    """The tokens of one job's events."""
    return [token for event in events for token, _, _ in event.tokens or ()]


def poison_token(backend: Backend, token: int) -> None:
    """Makes a token's embedding NaN."""
    if isinstance(backend, EagerBackend):
        assert isinstance(backend.runner, Runner)
        backend.runner._embedding = backend.runner._embedding.clone()
        backend.runner._embedding[token] = torch.nan
        return
    assert isinstance(backend, CompiledBackend)
    model, native = backend._packed, backend._native
    matrix = model.matrix("embedding")
    data = np.empty(len(matrix.data) + 64, np.uint8)
    data = data[-data.ctypes.data % 64 :][: len(matrix.data)]
    data[:] = matrix.data
    panels = data.reshape(-(-matrix.outputs // 64), -1)
    panels[token // 64, : 64 * 4].view(np.float32)[token % 64] = np.nan
    poisoned = backend._matrix("embedding")
    poisoned.data = data.ctypes.data
    backend.poisoned = data  # type: ignore[attr-defined]  # as long as the backend
    native.model_ends(
        backend._model,
        ctypes.byref(poisoned),
        ctypes.byref(backend._matrix("head")),
        model.array("norm"),
        model.array("frequencies"),
    )

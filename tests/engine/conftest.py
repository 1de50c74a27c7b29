"""A small real model for the engine's tests: random weights, a trained bilingual tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from everloop.engine.native.core import Core
from everloop.engine.native.jobs import Event, GenerateJob, Job
from everloop.engine.native.runner import Runner
from everloop.engine.native.sampler import Choice
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


@pytest.fixture
def make_core(model_dir: Path) -> Callable[..., Core]:
    """A fresh core over the small model."""

    def make(*, blocks: int = 64, max_running: int = 16, chunk: int = 64) -> Core:
        config, weights = checkpoint.load(model_dir)
        runner = Runner(config, weights, blocks=blocks, block_size=BLOCK)
        return Core(runner, max_running=max_running, chunk=chunk)

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

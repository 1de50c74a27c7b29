"""The one interface between what a call means (`tasks`, `server`) and what makes tokens.

An engine takes a prompt as text, token ids or messages and checks a request completely before it
starts: `generate` raises, or returns a `Generation` that will stream. `native` runs a model of
ours in a child process, `remote` talks to any OpenAI-compatible server. Accelerations (quantized
kernels, shared prefixes, drafting) live behind this interface and change no field of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

FinishReason = Literal["stop", "length"]


class Message(TypedDict):
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


Prompt = str | tuple[int, ...] | tuple[Message, ...]
"""Raw text, token ids, or messages for the model's chat template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen. Order: logit_bias and penalties, temperature, top_k, top_p,
    min_p, draw. Temperature 0 is greedy (ties go to the lowest token id)."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    min_p: float = 0.0
    presence_penalty: float = 0.0  # once per token seen in the output, OpenAI's definition
    frequency_penalty: float = 0.0  # times its count in the output
    repetition_penalty: float = 1.0  # CTRL's, over prompt and output; 1 is off
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None  # None: a fresh one per request


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One continuation of one prompt (n answers are n requests, each with its own seed)."""

    prompt: Prompt
    max_tokens: int | None = None  # None: to the end of the context
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None  # k alternatives per token; 0: only the chosen token's
    stream: bool = True  # False: nobody reads along, so one chunk at the end will do
    echo: bool = False  # the first chunk carries the prompt (with log-probabilities if asked for)
    suffix: str | None = None  # fill in the middle between prompt and suffix
    early_exit: float | None = None  # leave layers out, but agree with the whole model so often
    prediction: str | None = None  # expected output: may speed drafting up, never changes tokens
    tenant: str = ""  # salts shared caches
    request_id: str = ""  # for logs


TopToken = tuple[str, bytes, float]
"""A likely token: text, bytes, log-probability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """One token with its log-probability under the model before temperature and penalties."""

    text: str  # the token's own text, U+FFFD where its bytes are no whole character
    bytes: bytes
    id: int | None  # None from a remote engine that doesn't tell
    logprob: float | None  # None: first token of an echoed prompt, or the engine can't tell
    top: tuple[TopToken, ...] = ()  # best first


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyExit:
    """How a request left layers out: tokens judged good enough left after `layer` of `layers`
    layers, `exited` of those written. In the measurement that the choice came from, `agreement` of
    all tokens were what the whole model would say."""

    agreement: float
    layer: int
    layers: int
    exited: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens read and written for one request."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0
    early_exit: EarlyExit | None = None  # None: all layers were computed for all tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a generation: whole characters only, never a part of a stop string. The last one
    has `finish_reason` and `usage`. `tokens` are those whose text is in this chunk, where the
    request asked for log-probabilities; else it is empty, so that nobody pays for them."""

    text: str = ""
    tokens: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


class Generation(ABC):
    """A running generation: iterate for its chunks, once. Leaving early must `cancel`."""

    prompt_tokens: int

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[Chunk]:
        """Yields chunks until one has a finish_reason. Raises EngineUnavailable if the engine
        dies meanwhile."""

    async def groups(self) -> AsyncGenerator[Sequence[Chunk], None]:
        """As iterating, with all chunks that are there at once in one group, never empty: where
        many come, much is paid once a group instead of once a chunk."""
        async for chunk in self:
            yield (chunk,)

    @abstractmethod
    async def cancel(self) -> Usage:
        """Stops at the next step and frees its memory; harmless when already finished. Returns
        what was really used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """Log-probabilities of given continuations of one prompt (labels, choices, held-out text)."""

    prompt: Prompt
    continuations: tuple[str | tuple[int, ...], ...]
    tenant: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One continuation's tokens, each with log p(token | prompt, tokens before), in nats."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def total(self) -> float:
        return sum(self.logprobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """A unit-length vector for one text, and how many tokens were read for it."""

    vector: tuple[float, ...]
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What callers must know of a model before they ask."""

    id: str
    context_length: int  # tokens, prompt and output together
    vocab_size: int | None  # None: a remote engine doesn't tell
    fills_middle: bool = False
    embeds: bool = True
    created: int = 0  # Unix seconds
    sampling: Sampling = field(default_factory=Sampling)  # advised where a request doesn't say


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """For /ready, /metrics and `doctor`."""

    ready: bool
    running: int = 0
    waiting: int = 0
    restarts: int = 0
    kv_blocks_used: int = 0
    kv_blocks_total: int = 0
    detail: str = ""


class Engine(ABC):
    """Makes tokens. All methods are safe to call concurrently from one event loop."""

    info: ModelInfo

    @abstractmethod
    async def start(self) -> None:
        """Loads the model; returns when requests can be answered."""

    @abstractmethod
    async def close(self) -> None:
        """Ends running requests with EngineUnavailable and frees everything. Idempotent."""

    @abstractmethod
    async def generate(self, request: GenerateRequest) -> Generation:
        """Checks and queues a request.

        Raises InvalidRequest (naming the parameter), ContextLengthExceeded, Overloaded (queue
        full), EngineUnavailable (down or restarting).
        """

    @abstractmethod
    async def score(self, request: ScoreRequest) -> list[Score]:
        """One Score per continuation, in order. Raises as `generate` does."""

    @abstractmethod
    async def embed(self, texts: Sequence[str], *, tenant: str = "") -> list[Embedding]:
        """One Embedding per text, in order. Raises as `generate` does."""

    @abstractmethod
    async def count_tokens(self, prompt: Prompt) -> int:
        """Tokens that `prompt` takes in this model's context."""

    @abstractmethod
    def status(self) -> EngineStatus:
        """Never blocks."""

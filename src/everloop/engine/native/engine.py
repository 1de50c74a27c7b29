"""The native engine as the rest of the program sees it: requests in, a child process behind.

This side imports no torch. It checks and encodes requests, keeps the list of those under way, and
has a keeper start the worker again when it dies or hangs.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import secrets
from collections.abc import Sequence
from pathlib import Path

from everloop.engine.interface import (
    Embedding,
    Engine,
    EngineStatus,
    GenerateRequest,
    Generation,
    ModelInfo,
    Prompt,
    Sampling,
    Score,
    ScoreRequest,
)
from everloop.engine.native.frames import Message
from everloop.engine.native.generation import NativeGeneration, Pending, Reply
from everloop.engine.native.keeper import Keeper
from everloop.engine.native.options import NativeOptions
from everloop.engine.native.process import Process
from everloop.engine.native.prompts import Prompts, text_folder
from everloop.errors import EngineUnavailable, EverloopError, Overloaded

log = logging.getLogger(__name__)

_RULES = tuple(f.name for f in dataclasses.fields(Sampling) if f.name != "seed")


class NativeEngine(Engine):
    """Runs the model of a directory (Hugging Face layout) in a child process."""

    def __init__(
        self,
        model_dir: Path,
        model_id: str,
        options: NativeOptions | None = None,
        *,
        adapter_dir: Path | None = None,
        created: int = 0,
    ) -> None:
        """`adapter_dir` is a LoRA in PEFT's layout, merged into the model when it is loaded."""
        self._directory = model_dir.absolute()
        self._adapter = None if adapter_dir is None else adapter_dir.absolute()
        self._options = options or NativeOptions()
        self._created = created
        self._prompts: Prompts | None = None
        self._pending: dict[int, Pending] = {}
        self._keys = itertools.count(1)
        self._counts = (0, 0, 0, 0)
        setup = {
            "model_dir": str(self._directory),
            "adapter_dir": None if self._adapter is None else str(self._adapter),
            "text_dir": str(text_folder(self._directory, self._adapter)),
            "options": dataclasses.asdict(self._options),
        }
        self._keeper = Keeper(
            model_id, setup, self._options, hear=self._hear, ready=self._loaded, lost=self._fail_all
        )
        self.info = ModelInfo(id=model_id, context_length=0, vocab_size=None, created=created)

    async def start(self) -> None:
        if not self._keeper.running:
            self._prompts = await asyncio.to_thread(
                Prompts,
                self._directory,
                text_folder(self._directory, self._adapter),
                adapted=self._adapter is not None,
            )
        try:
            await self._keeper.start()
        except EverloopError:
            await self.close()
            raise

    async def close(self) -> None:
        await self._keeper.close()

    async def generate(self, request: GenerateRequest) -> Generation:
        prompts = self._check_ready()
        ids, max_tokens = await prompts.request(request)
        prediction = await prompts.prediction(request.prediction or "")
        point = None if request.early_exit is None else prompts.exit_point(request.early_exit)
        key = next(self._keys)
        generation = NativeGeneration(
            len(ids),
            prompts.tokenizer,
            lambda: self._cancel(key),
            request_id=request.request_id,
            exit=None if point is None else prompts.early_exit(point),
        )
        seed = request.sampling.seed
        message: Message = {
            "op": "generate",
            "key": key,
            "prompt": ids,
            "max_tokens": max_tokens,
            "sampling": _rules(request.sampling),
            "seed": (secrets.randbits(63) if seed is None else seed) % 2**63,
            "stop": request.stop,
            "eos": () if request.ignore_eos else prompts.eos,
            "logprobs": request.logprobs,
            "echo": request.echo,
            "stream": request.stream,
            "prediction": prediction,
            "exit": None if point is None else (point.layer, point.threshold),
            "request_id": request.request_id,
            "tenant": request.tenant,
        }
        self._submit(key, generation, message)
        return generation

    async def score(self, request: ScoreRequest) -> list[Score]:
        prompts = self._check_ready()
        prompt = await prompts.encode(request.prompt)
        continuations = [
            await prompts.encode_text(c, "continuations") if isinstance(c, str) else list(c)
            for c in request.continuations
        ]
        for ids in continuations:
            check = tuple(ids)
            await prompts.encode(check) if check else None
            if len(prompt) + len(ids) > prompts.context_length:
                raise prompts.too_long(len(prompt), len(ids), request.prompt)
        event = await self._ask(
            {
                "op": "score",
                "prompt": prompt,
                "continuations": continuations,
                "request_id": "",
                "tenant": request.tenant,
            }
        )
        return [
            Score(tokens=tuple(ids), logprobs=tuple(values))
            for ids, values in zip(continuations, event["scores"], strict=True)
        ]

    async def embed(self, texts: Sequence[str], *, tenant: str = "") -> list[Embedding]:
        prompts = self._check_ready()
        if not texts:
            return []
        ids = [await prompts.encode(text) for text in texts]
        for text, tokens in zip(texts, ids, strict=True):
            if len(tokens) > prompts.context_length:
                raise prompts.too_long(len(tokens), None, text)
        event = await self._ask({"op": "embed", "texts": ids, "request_id": "", "tenant": tenant})
        return [
            Embedding(vector=tuple(vector), tokens=len(tokens))
            for vector, tokens in zip(event["vectors"], ids, strict=True)
        ]

    async def count_tokens(self, prompt: Prompt) -> int:
        if self._prompts is None:
            raise EngineUnavailable("The engine is not started.")
        return len(await self._prompts.encode(prompt))

    def status(self) -> EngineStatus:
        running, waiting, used, total = self._counts  # as of the worker's last message
        if not self._pending:
            running = waiting = 0
        return EngineStatus(
            ready=self._process is not None,
            running=running,
            waiting=max(waiting, len(self._pending) - running, 0),
            restarts=self._keeper.restarts,
            kv_blocks_used=used,
            kv_blocks_total=total,
            detail=self._keeper.detail,
        )

    @property
    def _process(self) -> Process | None:
        """The worker, while it is ready."""
        return self._keeper.process

    def _check_ready(self) -> Prompts:
        if self._process is None or self._prompts is None:
            raise EngineUnavailable(
                f"The engine is {self._keeper.detail}.", retry_after=self._keeper.patience
            )
        limit = self._options.max_running + self._options.max_queue
        if len(self._pending) >= limit:
            raise Overloaded(f"{limit} requests are running or waiting already. Try again soon.")
        return self._prompts

    def _submit(self, key: int, pending: Pending, message: Message) -> None:
        self._check_ready()  # again: encoding the prompt may have taken its time
        assert self._process is not None
        self._pending[key] = pending
        self._process.send(message)

    async def _ask(self, message: Message) -> Message:
        key, reply = next(self._keys), Reply()
        self._submit(key, reply, {**message, "key": key})
        try:
            return await reply.future
        except asyncio.CancelledError:
            self._cancel(key)
            raise

    def _cancel(self, key: int) -> None:
        if key in self._pending and self._process is not None:
            self._process.send({"op": "cancel", "key": key})

    def _loaded(self, ready: Message) -> None:
        """Takes what a worker says of itself once its model is loaded."""
        assert self._prompts is not None
        self._prompts.context_length = ready["context_length"]
        self._counts = (0, 0, 0, ready["kv_blocks"])
        self.info = ModelInfo(
            id=self.info.id,
            context_length=ready["context_length"],
            vocab_size=self._prompts.config.vocab_size,
            fills_middle=self._prompts.tokenizer.fill_in_middle is not None,
            created=self._created,
            sampling=self._prompts.sampling,
        )
        full = self._prompts.config.max_position_embeddings
        if ready["context_length"] < full:
            log.warning(
                "The model could read %d tokens, but the key-value cache holds %d: longer "
                "requests are refused. Raise kv_tokens if there is memory.",
                full,
                ready["context_length"],
            )
        if ready["note"]:
            log.warning("%s", ready["note"])
        log.info("Engine for %s ready: %s", self.info.id, ready)

    def _hear(self, message: Message) -> None:
        """Hands out the worker's events."""
        self._counts = tuple(message["status"])
        for event in message.get("events", ()):
            self._feed(event["key"], event)
        if "cancelled" in message:
            self._feed(message["cancelled"], message)

    def _feed(self, key: int, event: Message) -> None:
        pending = self._pending.get(key)
        if pending is None:
            return
        if event.get("error"):
            log.error(
                "Request %s of %s failed: %s", pending.request_id, self.info.id, event["error"]
            )
        if pending.feed(event):
            del self._pending[key]

    def _fail_all(self, message: str) -> None:
        self._counts = (0, 0, 0, 0)
        pending, self._pending = self._pending, {}
        for request in pending.values():
            request.fail(EngineUnavailable(message, retry_after=self._keeper.patience))


def _rules(sampling: Sampling) -> Message:
    """Everything of `sampling` but its seed."""
    rules = {name: getattr(sampling, name) for name in _RULES}
    rules["logit_bias"] = {str(k): v for k, v in sampling.logit_bias.items()}
    return rules

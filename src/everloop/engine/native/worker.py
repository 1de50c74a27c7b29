"""The engine's child process: loads a model and steps it until its parent is gone.

Started as `python -m everloop.engine.native.worker FD` with one end of a socket pair. It answers
with `ready` or `fatal`, then with events; the end of the socket ends it.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from everloop.engine.native.backend import Choice
from everloop.engine.native.core import Core
from everloop.engine.native.frames import Channel, Message
from everloop.engine.native.jobs import EmbedJob, GenerateJob, ScoreJob
from everloop.engine.native.loading import load_backend
from everloop.engine.native.options import NativeOptions
from everloop.errors import EverloopError
from everloop.model.tokenizer import Tokenizer

HEARTBEAT_SECONDS = 1.0


class Worker:
    """Turns messages into jobs and events into messages."""

    def __init__(self, channel: Channel, setup: Message) -> None:
        self._channel = channel
        options = NativeOptions(**setup["options"])
        self._table = text_table(Tokenizer.load(Path(setup["text_dir"])))
        adapter = setup["adapter_dir"]
        loaded = load_backend(
            Path(setup["model_dir"]), None if adapter is None else Path(adapter), options
        )
        backend, config = loaded.backend, loaded.config
        self._core = Core(
            backend,
            max_running=options.max_running,
            chunk=options.prefill_chunk,
            drafting=options.drafting,
        )
        self._sent = 0.0
        self._status: list[int] = []
        channel.send(
            {
                "ready": {
                    "context_length": min(
                        config.max_position_embeddings, backend.blocks * backend.block_size
                    ),
                    "kernel": backend.name,
                    "threads": backend.threads,
                    "kv_bytes": loaded.kv_bytes,
                    "note": loaded.note,
                    "kv_blocks": backend.blocks,
                }
            }
        )

    def run(self) -> None:
        """Until the channel closes."""
        while not self._channel.closed:
            wait = 0.0 if self._core.busy else HEARTBEAT_SECONDS
            for message in self._channel.receive(wait):
                self._handle(message)
            self._report(self._core.step() if self._core.busy else [])

    def _handle(self, message: Message) -> None:
        key = message["key"]
        match message["op"]:
            case "generate":
                self._core.submit(self._generate(key, message))
            case "score":
                self._core.submit(
                    ScoreJob(
                        key,
                        prompt=message["prompt"],
                        continuations=message["continuations"],
                        request_id=message["request_id"],
                        tenant=message["tenant"],
                    )
                )
            case "embed":
                self._core.submit(
                    EmbedJob(
                        key,
                        texts=message["texts"],
                        request_id=message["request_id"],
                        tenant=message["tenant"],
                    )
                )
            case "cancel":
                usage = self._core.cancel(key)
                self._channel.send({"cancelled": key, "usage": usage, "status": self._state()})

    def _generate(self, key: int, message: Message) -> GenerateJob:
        rules: dict[str, Any] = message["sampling"]
        rules["logit_bias"] = {int(k): v for k, v in rules["logit_bias"].items()}
        prompt = message["prompt"]
        seen = frozenset(prompt) if rules["repetition_penalty"] != 1.0 else frozenset()
        return GenerateJob(
            key,
            prompt=prompt,
            max_tokens=message["max_tokens"],
            choice=Choice(**rules, prompt=seen),
            seed=message["seed"],
            token_bytes=lambda i: self._table[i] if i < len(self._table) else b"",
            stop=message["stop"],
            eos=frozenset(message["eos"]),
            logprobs=message["logprobs"],
            echo=message["echo"],
            stream=message["stream"],
            prediction=message["prediction"],
            exit=message["exit"],
            request_id=message["request_id"],
            tenant=message["tenant"],
        )

    def _state(self) -> list[int]:
        """Sequences running and waiting, blocks used and there."""
        scheduler, blocks = self._core.scheduler, self._core.blocks
        return [len(scheduler.running), len(scheduler.waiting), blocks.used, blocks.total]

    def _report(self, events: list[Any]) -> None:
        status = self._state()
        now = time.monotonic()
        if events or status != self._status or now - self._sent > HEARTBEAT_SECONDS / 2:
            news = [event.message() for event in events]
            self._channel.send({"events": news, "status": status})
            self._sent, self._status = now, status


def text_table(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of every token that are text: nothing for special tokens."""
    special = tokenizer.special_ids
    return [b"" if i in special else tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]


def main(descriptor: int) -> int:
    """Runs a worker on an inherited socket; the exit status is for the log only."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to decide on
    channel = Channel(socket.socket(fileno=descriptor))
    setup = channel.receive(30.0)
    if not setup:
        return 1
    try:
        worker = Worker(channel, setup[0])
    except EverloopError as error:
        fatal = {"kind": type(error).__name__, "message": error.message, "param": error.param}
        channel.send({"fatal": fatal})
        return 1
    except Exception as error:
        traceback.print_exc()
        message = f"The model could not be loaded ({type(error).__name__}: {error})."
        channel.send({"fatal": {"kind": "EverloopError", "message": message, "param": None}})
        return 1
    try:
        worker.run()
    except Exception:
        # A defect: the traceback has our code lines but no values, so nobody's prompt.
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))

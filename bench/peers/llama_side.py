"""llama.cpp's side: its library through llama-cpp-python's low-level functions, and its server.

Tokens are chosen with numpy's argmax, which costs llama.cpp less than its own sampler would.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from side import serve

BATCH = 2048
"""Tokens given to one call of `llama_decode` at most: llama.cpp's default."""


class Model:
    """A loaded model with one context at a time."""

    def __init__(self, path: str) -> None:
        began = time.perf_counter()
        model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        if model is None:
            raise RuntimeError(f"llama.cpp can't load {path}")
        self._model: Any = model
        self.seconds = time.perf_counter() - began
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._context: Any = None
        self._shape = (0, 0)
        self._batch: Any = llama_cpp.llama_batch_init(BATCH, 0, 1)

    def close(self) -> None:
        if self._context is not None:
            llama_cpp.llama_free(self._context)
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_model_free(self._model)

    def prepare(self, streams: int, tokens: int, threads: int) -> None:
        """An empty context for `streams` sequences of up to `tokens` tokens each."""
        if self._context is not None and self._shape == (streams, tokens):
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        else:
            if self._context is not None:
                llama_cpp.llama_free(self._context)
            params = llama_cpp.llama_context_default_params()
            params.n_seq_max, params.n_batch = streams, BATCH
            # Divided among the sequences, each part rounded to what the cache wants.
            params.n_ctx = streams * (-(-tokens // 256) * 256)
            self._context = llama_cpp.llama_init_from_model(self._model, params)
            if self._context is None:
                raise RuntimeError(f"no context for {streams} streams of {tokens} tokens")
            self._shape = (streams, tokens)
        llama_cpp.llama_set_n_threads(self._context, threads, threads)

    def decode(
        self, rows: Sequence[tuple[int, int, int, bool]]
    ) -> dict[int, npt.NDArray[np.float32]]:
        """Computes rows of (token, position, sequence, wanted); the logits of those wanted, by
        index. They are views that the next call overwrites."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = wanted
        status = llama_cpp.llama_decode(self._context, batch)
        if status:
            raise RuntimeError(f"llama_decode failed with status {status}")
        found = {}
        for i, (_, _, _, wanted) in enumerate(rows):
            if wanted:
                pointer = llama_cpp.llama_get_logits_ith(self._context, i)
                found[i] = np.ctypeslib.as_array(pointer, shape=(self.vocab,))
        return found

    def read(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Computes prompts, together as far as a batch goes; the next token of each."""
        rows = [
            (token, position, sequence, position == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        following = [0] * len(prompts)
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            for i, logits in self.decode(part).items():
                following[part[i][2]] = int(logits.argmax())
        return following


loaded: dict[str, Model] = {}


def model_of(path: str) -> Model:
    if path not in loaded:
        loaded[path] = Model(path)
    return loaded[path]


def cores(threads: int) -> int:
    return threads or len(os.sched_getaffinity(0))


def read(model: str, weights: str, threads: int, prompt: list[int]) -> dict[str, Any]:
    own = model_of(model)
    own.prepare(1, len(prompt), cores(threads))
    began = time.perf_counter()
    own.read([prompt])
    return {"seconds": time.perf_counter() - began}


def write(
    model: str, weights: str, threads: int, prompts: list[list[int]], tokens: int
) -> dict[str, Any]:
    own = model_of(model)
    own.prepare(len(prompts), len(prompts[0]) + tokens, cores(threads))
    current, at = own.read(prompts), len(prompts[0])
    began = time.perf_counter()
    for step in range(tokens):
        found = own.decode([(token, at + step, i, True) for i, token in enumerate(current)])
        current = [int(found[i].argmax()) for i in range(len(prompts))]
    return {"seconds": time.perf_counter() - began, "tokens": tokens * len(prompts)}


def perplexity(model: str, weights: str, threads: int, windows: list[list[int]]) -> dict[str, Any]:
    own, nats, count = model_of(model), 0.0, 0
    for window in windows:
        own.prepare(1, max(map(len, windows)), cores(threads))
        rows = [(token, i, 0, True) for i, token in enumerate(window[:-1])]
        assert len(rows) <= BATCH
        for i, logits in own.decode(rows).items():
            row = logits.astype(np.float64)
            top = row.max()
            nats += top + np.log(np.exp(row - top).sum()) - row[window[i + 1]]
            count += 1
    return {"nats": float(nats), "tokens": count}


def load(model: str, weights: str, threads: int) -> dict[str, Any]:
    """Seconds to load a model and make a context, the file being in the page cache."""
    began = time.perf_counter()
    own = Model(model)
    own.prepare(1, 256, cores(threads))
    seconds = time.perf_counter() - began
    own.close()
    return {"seconds": seconds}


# ---- its server ----


class Server:
    """A running llama-server with one context."""

    def __init__(self, model: str, threads: int, tokens: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        binary = Path(os.environ["LLAMA_CPP_LIB_PATH"]) / "llama-server"
        command = [binary, "-m", model, "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["-t", str(threads), "-c", str(tokens), "-np", "1"]
        self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2)
        deadline = time.monotonic() + 120
        while not self._healthy():
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"llama-server did not start (status {self._child.poll()})")
            time.sleep(0.1)

    def complete(self, prompt: list[int], tokens: int, cache: bool) -> dict[str, Any]:
        body = {
            "prompt": prompt,
            "n_predict": tokens,
            "cache_prompt": cache,
            "ignore_eos": True,
            "temperature": 0,
        }
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        with contextlib.closing(connection):
            connection.request("POST", "/completion", json.dumps(body))
            answer = connection.getresponse()
            value: dict[str, Any] = json.loads(answer.read())
            if answer.status != 200:
                raise RuntimeError(f"llama-server answered {answer.status}: {value}")
            assert value["tokens_predicted"] == tokens, value
            return value

    def close(self) -> None:
        self._child.terminate()
        self._child.wait()

    def _healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        return False


servers: dict[tuple[str, int, int], Server] = {}
"""One at most: another model's gives way."""


def questions(
    model: str,
    weights: str,
    threads: int,
    text: list[int],
    questions: list[list[int]],
    tokens: int,
    cache: bool,
) -> dict[str, Any]:
    """One call for each question, one after the other: asked at once, in slots of their own, they
    take longer, since a slot doesn't see what another has cached."""
    room = -(-(len(text) + max(map(len, questions)) + tokens) // 256) * 256
    key = (model, cores(threads), room)
    if key not in servers:
        close_servers()
        servers[key] = Server(*key)
    calls = []
    for question in questions:
        began = time.perf_counter()
        servers[key].complete([*text, *question], tokens, cache)
        calls.append(time.perf_counter() - began)
    return {"seconds": sum(calls), "calls": calls}


def close_servers() -> None:
    while servers:
        servers.popitem()[1].close()


@llama_cpp.llama_log_callback
def quiet(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    if level >= 3:  # warnings and errors
        os.write(2, text)


if __name__ == "__main__":
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    try:
        serve(
            {
                "read": read,
                "write": write,
                "perplexity": perplexity,
                "questions": questions,
                "load": load,
            }
        )
    finally:
        close_servers()

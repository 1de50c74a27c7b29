"""OpenVINO GenAI's side: its own pipeline over the same GGUF file."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import openvino
import openvino_genai
from side import serve

KEPT = 2
"""Pipelines that stay for the next question: one for each number of threads that is tried."""

pipelines: dict[tuple[str, int], Any] = {}


def pipeline(model: str, threads: int) -> Any:
    """A pipeline with this number of threads, which is fixed when it is made."""
    key = (model, threads)
    own = pipelines.pop(key, None)
    if own is None:
        while len(pipelines) >= KEPT:
            pipelines.pop(next(iter(pipelines)))
        settings = {"INFERENCE_NUM_THREADS": threads} if threads else {}
        own = openvino_genai.LLMPipeline(model, "CPU", **settings)
    pipelines[key] = own  # now the youngest
    return own


def generate(own: Any, prompts: list[list[int]], tokens: int) -> Any:
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos, config.do_sample = tokens, True, False
    config.apply_chat_template = False
    ids = openvino.Tensor(np.array(prompts, np.int64))
    mask = openvino.Tensor(np.ones((len(prompts), len(prompts[0])), np.int64))
    return own.generate(openvino_genai.TokenizedInputs(ids, mask), config)


def read(model: str, weights: str, threads: int, prompt: list[int]) -> dict[str, Any]:
    own = pipeline(model, threads)
    began = time.perf_counter()
    generate(own, [prompt], 1)
    return {"seconds": time.perf_counter() - began}


def write(
    model: str, weights: str, threads: int, prompts: list[list[int]], tokens: int
) -> dict[str, Any]:
    """The time of one call less that of a call that ends with the first token."""
    own = pipeline(model, threads)
    found = generate(own, prompts, tokens + 1)
    assert all(len(t) == tokens + 1 for t in found.tokens), [len(t) for t in found.tokens]
    metrics = found.perf_metrics
    seconds = (metrics.get_generate_duration().mean - metrics.get_ttft().mean) / 1000
    return {"seconds": seconds, "tokens": tokens * len(prompts)}


if __name__ == "__main__":
    serve({"read": read, "write": write})

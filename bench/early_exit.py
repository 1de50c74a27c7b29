"""What early exit gives: tokens per second and agreement with the whole model, at several points.

    python bench/early_exit.py MODEL_DIR [--agreement 0.99 0.97 0.95 0.9] [--streams 1 16]

MODEL_DIR was trained with `--exit-loss`. The same conversations are answered greedily by the whole
model and with layers left out. Prints median speeds and what became of the answers: the share of
tokens that are the whole model's, up to each answer's first difference (after it, texts can't be
compared token by token), and the share of answers that are equal to the end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from everloop.engine.native.backend import Choice
from everloop.engine.native.core import Core
from everloop.engine.native.jobs import GenerateJob
from everloop.engine.native.loading import load_backend
from everloop.engine.native.options import NativeOptions
from everloop.model.early_exit import EarlyExits
from everloop.model.template import ChatTemplate
from everloop.model.tokenizer import Tokenizer

OUTPUT = 96  # tokens of an answer at most

QUESTIONS = (
    "把这句话翻译成英语：今天天气很好，我们去公园散步。",
    "Translate into Chinese: The library opens at nine in the morning.",
    "这条评论是正面还是负面：房间很干净，服务员也很热情。",
    "Is this review positive or negative: The battery died after two days.",
    "用一句话概括：昨天夜里下了大雪，高速公路封闭，许多航班取消，学校停课一天。",
    "Correct the mistakes: She go to school every days by bus.",
    "改正错别字：我门明天要去北京旅游。",
    "你好，请介绍一下你自己。",
    "What can you do for a small shop?",
    "Write a short message that thanks a customer for waiting.",
    "写一句祝贺朋友生日的话。",
    "Summarize: The city will close two bridges for repairs in May. Take the tunnel.",
    "我的订单什么时候发货？请礼貌地回答顾客。",
    "Name three fruits and say what colour they are.",
    "中国的首都是哪里？",
    "Tell me about the sea in two sentences.",
)


def answers(
    core: Core,
    prompts: list[list[int]],
    eos: frozenset[int],
    streams: int,
    exit: tuple[int, float] | None,
) -> tuple[list[list[int]], list[tuple[int, int]], float]:
    """Tokens of each answer; tokens written and those of them that left early; seconds of writing,
    all prompts read."""
    said: list[list[int]] = []
    used: list[tuple[int, int]] = []
    seconds = 0.0
    for at in range(0, len(prompts), streams):
        jobs = [
            GenerateJob(
                i,
                prompt=prompt,
                max_tokens=OUTPUT,
                choice=Choice(temperature=0.0),
                seed=0,
                token_bytes=lambda i: b"x",
                eos=eos,
                exit=exit,
            )
            for i, prompt in enumerate(prompts[at : at + streams])
        ]
        for job in jobs:
            core.submit(job)
        while core.busy and any(job.sequences[0].left > 1 for job in jobs):
            core.step()
        began = time.perf_counter()
        before = sum(job.usage()[1] for job in jobs)
        while core.busy:
            core.step()
        seconds += time.perf_counter() - began
        for job in jobs:
            tokens = job.sequences[0].tokens[len(prompts[at + job.key]) :]
            said.append(tokens)
            used.append((job.usage()[1], sum(job.left[: job.usage()[1]])))
        used[-1] = (used[-1][0] - before, used[-1][1])
    return said, used, seconds


def agreement(whole: list[list[int]], early: list[list[int]]) -> tuple[float, float]:
    """Of tokens up to each answer's first difference, and of whole answers."""
    tokens = differences = 0
    for a, b in zip(whole, early, strict=True):
        same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        if same is None:
            same = min(len(a), len(b))
        different = a != b
        tokens += same + different
        differences += different
    return 1 - differences / max(tokens, 1), 1 - differences / len(whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a model directory")
    parser.add_argument("--agreement", nargs="+", type=float, default=[0.99, 0.97, 0.95, 0.9, 0.8])
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write all values")
    arguments = parser.parse_args()
    options = NativeOptions(threads=arguments.threads, kv_tokens=32_768, drafting=False)
    loaded = load_backend(arguments.model, None, options)
    exits = EarlyExits.load(arguments.model, loaded.config)
    if exits is None:
        parser.error(f"{arguments.model} was not trained with --exit-loss: it has no early exits")
    tokenizer = Tokenizer.load(arguments.model)
    template = ChatTemplate.load(arguments.model, tokenizer)
    prompts = [template.encode([{"role": "user", "content": q}]) for q in QUESTIONS]
    eos = frozenset(tokenizer.eos_ids)
    print(f"{loaded.backend.name}, {arguments.threads} threads; {len(exits.points)} points")
    print("streams  asked  measured  layer  left early  layers  tok/s  ratio  tokens  answers")
    rows: list[dict[str, Any]] = []
    for streams in arguments.streams:
        points = [(None, None), *((a, exits.choose(a)) for a in arguments.agreement
                                  if a <= exits.points[0].agreement)]  # fmt: skip
        speeds: dict[float | None, list[float]] = {asked: [] for asked, _ in points}
        found: dict[float | None, Any] = {}
        for _ in range(arguments.repeat):  # interleaved: a noisy moment hits all of them
            for asked, point in points:
                core = Core(loaded.backend, max_running=streams, chunk=512, drafting=False)
                rule = None if point is None else (point.layer, point.threshold)
                said, used, seconds = answers(core, prompts, eos, streams, rule)
                speeds[asked].append(sum(n for n, _ in used) / seconds)
                found[asked] = said, used
        base = statistics.median(speeds[None])
        for asked, point in points:
            said, used = found[asked]
            written = sum(len(s) for s in said)
            left = sum(e for _, e in used) / max(written, 1)
            layer = exits.layers if point is None else point.layer
            same, equal = agreement(found[None][0], said)
            speed = statistics.median(speeds[asked])
            row = {
                "streams": streams,
                "asked": asked,
                "measured": None if point is None else point.agreement,
                "layer": layer,
                "exited": left,
                "mean_layers": exits.layers - left * (exits.layers - layer),
                "tokens_per_s": speed,
                "ratio": speed / base,
                "tokens_equal": same,
                "answers_equal": equal,
            }
            rows.append(row)
            print(
                f"{streams:7}  {asked or '-':>5}  {row['measured'] or 1:8.4f}  {layer:5}  "
                f"{left:10.1%}  {row['mean_layers']:6.2f}  {speed:5.0f}  {row['ratio']:5.2f}  "
                f"{same:6.1%}  {equal:7.1%}"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

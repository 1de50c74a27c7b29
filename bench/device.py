"""The engine on a GPU beside transformers' generate: same weights, prompts, lengths and type.

    python bench/device.py                           # the default model
    python bench/device.py MODEL_DIR --streams 1 16 64 --prompt 512 --write 128

Both decode greedily in bfloat16, sides in turn, medians of --repeat. Prints tokens per second of
all streams together, the prompt's included for transformers and for us alike, and the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

EMBEDDED = Path(__file__).parents[1] / "src/everloop/models/everloop-small"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", default=EMBEDDED)
    parser.add_argument("--device", help="default: cuda")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--prompt", type=int, default=512, help="tokens of each prompt")
    parser.add_argument("--write", type=int, default=128, help="tokens of each answer")
    parser.add_argument("--repeat", type=int, default=5)
    chosen = parser.parse_args()
    if chosen.device is None and not torch.cuda.is_available():
        print("No GPU here: nothing to measure (--device cpu runs it all the same).")
        return
    device = torch.device(chosen.device or "cuda")
    sides = {
        "everloop": everloop(chosen.model, device, chosen),
        "transformers": transformers(chosen.model, device, chosen),
    }
    print(f"{chosen.model}, {chosen.prompt} + {chosen.write} tokens, bfloat16 on {device}")
    generator = np.random.default_rng(0)
    for streams in chosen.streams:
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(chosen.repeat + 1):
            prompts = generator.integers(1000, 5000, (streams, chosen.prompt)).tolist()
            for name, run in sides.items():
                began = time.perf_counter()
                run(prompts)
                if turn:  # the first one captures graphs and warms caches
                    seconds[name].append(time.perf_counter() - began)
        speed = {
            name: streams * chosen.write / statistics.median(times)
            for name, times in seconds.items()
        }
        ratio = speed["everloop"] / speed["transformers"]
        print(
            f"{streams:3} streams: everloop {speed['everloop']:9,.0f} tok/s, "
            f"transformers {speed['transformers']:9,.0f} tok/s, {ratio:.2f} x"
        )


def everloop(
    directory: Path, device: torch.device, chosen: argparse.Namespace
) -> Callable[[list[list[int]]], None]:
    """Steps of the engine's backend, as its scheduler makes them: prompts, then tokens."""
    from everloop.engine.native.backend import Choice, Rows, Writer
    from everloop.engine.native.device import DeviceRunner
    from everloop.engine.native.eager import EagerBackend
    from everloop.model import checkpoint

    config, model = checkpoint.load(directory)
    size = 32
    each = -(-(chosen.prompt + chosen.write + 1) // size)
    runner = DeviceRunner(
        config, model, blocks=each * max(chosen.streams), block_size=size, device=device
    )
    backend = EagerBackend(runner)

    def run(prompts: list[list[int]]) -> None:
        tables = [list(range(i * each, (i + 1) * each)) for i in range(len(prompts))]
        samplers = [backend.sampler(Choice(temperature=0.0), 0) for _ in prompts]
        last = []
        for prompt, table, sampler in zip(prompts, tables, samplers, strict=True):
            backend.forward([Rows(ids=prompt, start=0, table=table)])
            [[token]] = backend.verify(backend.logits([len(prompt) - 1]), [sampler], [()])
            last.append(token)
        writers = [
            Writer(id=i, position=chosen.prompt, table=t, sampler=s, ends=frozenset())
            for i, t, s in zip(last, tables, samplers, strict=True)
        ]
        made = backend.write(writers, chosen.write - 1)
        assert len(made) == chosen.write - 1

    return run


def transformers(
    directory: Path, device: torch.device, chosen: argparse.Namespace
) -> Callable[[list[list[int]]], None]:
    """`generate` with its default cache."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).to(device)

    def run(prompts: list[list[int]]) -> None:
        ids = torch.tensor(prompts, device=device)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=chosen.write,
            min_new_tokens=chosen.write,
            do_sample=False,
            repetition_penalty=1.0,
            pad_token_id=0,
        )
        assert out.shape[1] == chosen.prompt + chosen.write

    return run


if __name__ == "__main__":
    main()

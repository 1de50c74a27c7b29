"""The step for accelerators: the oracle's numbers, also where this machine has none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from everloop.engine.native.backend import Rows
from everloop.engine.native.core import Core
from everloop.engine.native.device import DeviceRunner, _rounded
from everloop.engine.native.eager import EagerBackend
from everloop.engine.native.loading import load_backend, on_gpu
from everloop.engine.native.options import NativeOptions
from everloop.errors import InvalidRequest
from everloop.model import checkpoint
from tests.engine.conftest import drain, generate_job, ids_of
from tests.model.layouts import LAYOUTS, oracle_logits, sample_ids, saved

BLOCK = 16
GPU = torch.cuda.is_available()
DEVICES = [torch.device("cpu"), *([torch.device("cuda")] if GPU else [])]


def runner_for(
    directory: Path, device: torch.device, dtype: torch.dtype = torch.float32
) -> DeviceRunner:
    config, model = checkpoint.load(directory)
    return DeviceRunner(config, model, blocks=40, block_size=BLOCK, device=device, dtype=dtype)


def logits(runner: DeviceRunner, ids: list[int], chunks: list[int]) -> Tensor:
    out, at = [], 0
    for size in chunks:
        piece = ids[at : at + size]
        # Blocks in an order of their own: places must follow the table.
        table = [(7 * n + 3) % 40 for n in range(-(-(at + size) // BLOCK))]
        hidden = runner.forward([Rows(ids=piece, start=at, table=table)])
        out.append(runner.head(hidden).cpu())
        at += size
    return torch.cat(out)


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_and_greedy_tokens_are_those_of_transformers(
    layout: str, device: torch.device, tmp_path: Path
) -> None:
    oracle = saved(layout, tmp_path / "model")
    runner = runner_for(tmp_path / "model", device)
    ids = sample_ids(40, 1)
    got = logits(runner, ids[0].tolist(), [33, 1, 1, 5])
    assert (got - oracle_logits(oracle, ids)[0]).abs().max() <= 1e-4

    with torch.inference_mode():
        want = oracle.generate(  # type: ignore[operator]
            ids, max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0, 40:].tolist()
    core = Core(EagerBackend(runner), max_running=4, chunk=16)
    core.submit(generate_job(1, ids[0].tolist(), [b"x"] * 97, max_tokens=24))
    assert ids_of(drain(core)[1]) == want


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_sequences_of_a_batch_see_themselves_only(device: torch.device, tmp_path: Path) -> None:
    saved(next(iter(LAYOUTS)), tmp_path / "model")
    runner = runner_for(tmp_path / "model", device)
    texts = [sample_ids(n, n)[0].tolist() for n in (5, 21, 37, 9)]
    tables = [[10 * i, 10 * i + 1, 10 * i + 2] for i in range(4)]
    apart = []
    for text, table in zip(texts, tables, strict=True):
        runner.forward([Rows(ids=text[:-1], start=0, table=table)])
        apart.append(
            runner.head(
                runner.forward([Rows(ids=text[-1:], start=len(text) - 1, table=table)])
            ).cpu()
        )
    # Twice: one token of each in a step, then the first one beside a piece of another.
    single = [
        Rows(ids=text[-1:], start=len(text) - 1, table=table)
        for text, table in zip(texts, tables, strict=True)
    ]
    together = runner.head(runner.forward(single)).cpu()
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=1e-4)
    mixed = [single[0], Rows(ids=texts[1][3:], start=3, table=tables[1]), single[3]]
    out = runner.head(runner.forward(mixed)).cpu()
    wanted = torch.cat([apart[0], apart[1], apart[3]])
    torch.testing.assert_close(out[[0, -2, -1]], wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_bfloat16_is_float32_within_its_rounding(device: torch.device, tmp_path: Path) -> None:
    oracle = saved(next(iter(LAYOUTS)), tmp_path / "model")
    ids = sample_ids(40, 1)
    runner = runner_for(tmp_path / "model", device, torch.bfloat16)
    got, want = logits(runner, ids[0].tolist(), [40]), oracle_logits(oracle, ids)[0]
    assert got.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(got, want, dim=-1).min() > 0.995


def test_sizes_of_graphs_are_few_and_waste_at_most_half() -> None:
    assert [_rounded(n, 1) for n in (1, 2, 3, 4, 5, 7, 9, 13, 32)] == [1, 2, 3, 4, 6, 8, 12, 16, 32]
    sizes = {_rounded(n, 128) for n in range(1, 4097)}
    assert len(sizes) < 12
    assert all(n <= _rounded(n, 128) <= max(128, 1.5 * n) for n in range(1, 4097))


def test_device_cuda_is_refused_with_the_repair(model_dir: Path) -> None:
    with pytest.raises(InvalidRequest, match="device=cuda serves bfloat16 weights"):
        on_gpu(model_dir, NativeOptions(device="cuda", quantization="int8"))
    assert not on_gpu(model_dir, NativeOptions(device="cpu"))
    assert not on_gpu(model_dir, NativeOptions()), "small models are faster on the CPU"


@pytest.mark.skipif(GPU, reason="for machines without a GPU")
def test_device_cuda_without_one_says_so(model_dir: Path) -> None:
    with pytest.raises(InvalidRequest, match="finds no CUDA device"):
        on_gpu(model_dir, NativeOptions(device="cuda"))


@pytest.mark.skipif(not GPU, reason="needs a GPU")
def test_a_model_is_loaded_to_the_gpu_and_writes(model_dir: Path) -> None:
    loaded = load_backend(model_dir, None, NativeOptions(device="cuda", kv_tokens=2048))
    core = Core(loaded.backend, max_running=4, chunk=64)
    for i in range(4):
        core.submit(generate_job(i, [5, 6, 7 + i], [b"x"] * 97, max_tokens=20))
    assert all(len(ids_of(events)) == 20 for events in drain(core).values())

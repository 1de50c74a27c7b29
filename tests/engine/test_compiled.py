"""The compiled step: every layout against the Transformer with the same quantization, its bits
whatever is computed beside it, its sampler, and its packed files."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from everloop.engine.native import library
from everloop.engine.native.backend import Choice, Rows, Writer
from everloop.engine.native.compiled import CompiledBackend
from everloop.engine.native.eager import EagerSampler
from everloop.engine.native.loading import load_backend
from everloop.engine.native.noise import uniform
from everloop.engine.native.options import NativeOptions
from everloop.engine.native.packed import PackedModel, open_packed, source_key
from everloop.engine.native.packing import Part, parts_of
from everloop.engine.native.products import Weights
from everloop.engine.native.sampler import sample
from everloop.errors import DataError, InvalidRequest
from everloop.model import checkpoint
from everloop.model.config import ModelConfig
from everloop.model.transformer import Transformer
from tests.model.layouts import LAYOUTS, sample_ids, saved

ISAS = ("avx512bf16", "avx512vnni", "avx2", "portable")
LENGTH = 70


def runs_here(isa: str) -> bool:
    try:
        library.load(isa)
    except library.Missing:
        return False
    return True


def backend_for(
    directory: Path,
    cache: Path,
    *,
    bits: int = 8,
    threads: int = 1,
    isa: str | None = None,
    kv_bits: int = 16,
) -> CompiledBackend:
    packed = open_packed(directory, None, bits=bits, cache=cache)
    return CompiledBackend(
        packed, blocks=40, threads=threads, max_rows=512, isa=isa, kv_bits=kv_bits
    )


def logits(backend: CompiledBackend, ids: list[int], chunks: list[int], first: int = 0) -> Tensor:
    """Logits of every position, computed in pieces of `chunks` tokens."""
    out, at = [], 0
    for size in chunks:
        piece = ids[at : at + size]
        table = list(range(first, first + -(-(at + size) // backend.block_size)))
        assert backend.forward([Rows(ids=piece, start=at, table=table)]) == [True]
        out.append(torch.from_numpy(backend.logits(range(size)).copy()))
        at += size
    return torch.cat(out)


def quantized(model: Transformer, packed: PackedModel) -> Transformer:
    """The model with the packed weights and 8-bit inputs (a scale a token)."""

    def rounded(x: Tensor) -> Tensor:
        scale = x.abs().amax(-1, keepdim=True) / 127
        return torch.where(scale > 0, (x / scale).round() * scale, 0.0)

    for module in list(model.modules()):
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),))
    state = model.state_dict()
    with torch.no_grad():
        for part in parts_of(model.config, packed.bits):
            if part.bits:
                value = unpacked(packed, part)
            else:
                value = torch.from_numpy(packed.array(part.name).copy())
                value = value[order(len(value), part.gate)]
            sizes = [state[source].shape[0] for source in part.sources]
            for source, piece in zip(part.sources, value[: sum(sizes)].split(sizes), strict=True):
                state[source].copy_(piece)
    return model


def order(outputs: int, gate: bool) -> list[int]:
    """Where each output of the model lies in a packed matrix: gates and ups by 16."""
    if not gate:
        return list(range(outputs))
    places = [i // 16 * 32 + i % 16 for i in range(outputs // 2)]
    return places + [place + 16 for place in places]


def unpacked(packed: PackedModel, part: Part) -> Tensor:
    """A packed matrix in the model's order."""
    found = packed.matrix(part.name)
    shape = {"bits": found.bits, "outputs": found.outputs, "inputs": found.inputs}
    weights = Weights(**shape, gate=part.gate, data=found.data, bias=None)
    rows = [weights.row(n) for n in order(found.outputs, part.gate)]
    return torch.from_numpy(np.stack(rows))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("isa", ISAS)
def test_every_layout_is_the_quantized_transformer(layout: str, isa: str, tmp_path: Path) -> None:
    if not runs_here(isa):
        pytest.skip(f"this processor doesn't run {isa}")
    saved(layout, tmp_path / "model")
    ids = sample_ids(40, 1)
    backend = backend_for(tmp_path / "model", tmp_path / "cache", isa=isa)
    packed = open_packed(tmp_path / "model", None, bits=8, cache=tmp_path / "cache")
    _, model = checkpoint.load(tmp_path / "model")
    with torch.inference_mode():
        want = quantized(model, packed)(ids)[0]
    got = logits(backend, ids[0].tolist(), [33, 1, 6])
    # Keys and values are float16, and a number on the edge may round the other way: noise of
    # 0.05 % in the values alone moves these small models' logits by 0.03 of their spread.
    error = (got - want).std() / want.std()
    assert error < 0.05, error


@pytest.mark.parametrize(("bits", "kv_bits"), [(8, 16), (4, 16), (8, 8)])
@pytest.mark.parametrize("isa", ISAS)
def test_any_pieces_and_neighbours_give_the_same_bits(
    bits: int, kv_bits: int, isa: str, tmp_path: Path
) -> None:
    if not runs_here(isa):
        pytest.skip(f"this processor doesn't run {isa}")
    saved("qwen2-some-windows", tmp_path / "model")
    backend = backend_for(
        tmp_path / "model", tmp_path / "cache", bits=bits, isa=isa, kv_bits=kv_bits
    )
    ids = sample_ids(LENGTH, 1)[0].tolist()
    whole = logits(backend, ids, [LENGTH])
    for chunks in ([1] * LENGTH, [64, 6], [7] * 10, [33, 1, 1, 35]):
        assert torch.equal(logits(backend, ids, chunks, first=3), whole), chunks
    rng = random.Random(bits)
    others = [[rng.randrange(97) for _ in range(rng.randint(1, 60))] for _ in range(12)]
    batch = [Rows(ids=t, start=0, table=[8 + 2 * i, 9 + 2 * i]) for i, t in enumerate(others)]
    backend.forward([*batch[:5], Rows(ids=ids, start=0, table=[5, 6, 7]), *batch[5:]])
    at = sum(map(len, others[:5]))
    assert torch.equal(torch.from_numpy(backend.logits(range(at, at + LENGTH))), whole)


@pytest.mark.parametrize("isa", ISAS)
def test_a_cache_of_8_bits_is_close_to_one_of_16(isa: str, tmp_path: Path) -> None:
    if not runs_here(isa):
        pytest.skip(f"this processor doesn't run {isa}")
    saved("qwen3", tmp_path / "model")
    ids = sample_ids(LENGTH, 1)[0].tolist()
    full, half = (
        logits(
            backend_for(tmp_path / "model", tmp_path / "cache", isa=isa, kv_bits=n), ids, [64, 6]
        )
        for n in (16, 8)
    )
    error = (full - half).std() / full.std()
    assert 0 < error < 0.05, error


def test_a_cache_of_8_bits_needs_the_kernels(tmp_path: Path) -> None:
    saved("qwen3", tmp_path / "model")
    with pytest.raises(InvalidRequest, match="kv_bits=16, or quantization=int8") as caught:
        load_backend(tmp_path / "model", None, NativeOptions(kv_bits=8, quantization="none"))
    assert caught.value.param == "kv_bits"


def test_a_key_that_is_not_finite_is_told(tmp_path: Path) -> None:
    saved("qwen3", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    whole = load_file(path)
    whole["model.layers.0.self_attn.k_norm.weight"][3] = torch.nan
    save_file(whole, path)
    ids = sample_ids(LENGTH, 1)[0].tolist()
    rows = Rows(ids=ids, start=0, table=[0, 1, 2])
    for kv_bits in (16, 8):
        backend = backend_for(tmp_path / "model", tmp_path / "cache", kv_bits=kv_bits)
        assert backend.forward([rows]) == [False]


def test_threads_change_no_bit(tmp_path: Path) -> None:
    saved("qwen3", tmp_path / "model")
    ids = sample_ids(LENGTH, 1)[0].tolist()
    runs = [
        logits(backend_for(tmp_path / "model", tmp_path / "cache", threads=n), ids, [64, 1, 5])
        for n in (1, 2, 3)
    ]
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def test_writing_in_one_go_is_writing_step_by_step(tmp_path: Path) -> None:
    saved("qwen3", tmp_path / "model")
    backend = backend_for(tmp_path / "model", tmp_path / "cache")
    choices = [
        Choice(temperature=0.0),
        Choice(temperature=1.0),
        Choice(temperature=0.8, top_p=0.9, repetition_penalty=1.2, prompt=frozenset({3, 5})),
        Choice(temperature=1.2, top_k=5, frequency_penalty=0.5, logit_bias={7: 2.0}),
    ]

    def writers() -> list[Writer]:
        return [
            Writer(
                id=i + 1,
                position=0,
                table=[2 * i, 2 * i + 1],
                sampler=backend.sampler(choice, seed=i),
                ends=frozenset(),
            )
            for i, choice in enumerate(choices)
        ]

    def step_by_step(writing: list[Writer]) -> list[list[int]]:
        made = [[w.id for w in writing]]
        for i in range(40):
            backend.forward(
                [
                    Rows(ids=[token], start=w.position + i, table=w.table)
                    for w, token in zip(writing, made[-1], strict=True)
                ]
            )
            rows = backend.logits(range(len(writing)))
            drawn = backend.verify(rows, [w.sampler for w in writing], [()] * len(writing))
            made.append([token for [token] in drawn])
        return [list(tokens) for tokens in zip(*made[1:], strict=True)]

    fast = backend.write(writers(), 40).tokens
    assert fast == step_by_step(writers())
    assert [len(tokens) for tokens in fast] == [40] * len(choices)
    end = fast[1][11]
    first = fast[1].index(end)
    stopping = writers()
    stopping[1] = Writer(**{f: getattr(stopping[1], f) for f in ("id", "position", "table")},
                         sampler=stopping[1].sampler, ends=frozenset({end}))  # fmt: skip
    assert backend.write(stopping, 40).tokens == [tokens[: first + 1] for tokens in fast]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_samples_what_the_pytorch_sampler_samples(
    tiny: CompiledBackend, data: st.DataObject
) -> None:
    """Both follow one specification; only a draw on the very edge between two tokens may differ."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    size = tiny.vocab_size
    choice = Choice(
        temperature=data.draw(st.sampled_from([0.0, 0.01, 0.6, 1.0, 2.0])),
        top_p=data.draw(st.sampled_from([1.0, 0.95, 0.5, 0.01])),
        top_k=data.draw(st.sampled_from([0, 1, 3, 50, 10**6])),
        min_p=data.draw(st.sampled_from([0.0, 0.001, 0.2, 1.0])),
        presence_penalty=data.draw(st.sampled_from([0.0, 0.5])),
        frequency_penalty=data.draw(st.sampled_from([0.0, -0.3])),
        repetition_penalty=data.draw(st.sampled_from([1.0, 1.3])),
        logit_bias=data.draw(st.dictionaries(st.integers(0, size - 1), st.floats(-5, 5))),
        prompt=frozenset(rng.integers(0, size, 5).tolist()),
    )
    rows = (rng.standard_normal((6, size)) * data.draw(st.sampled_from([0.1, 2, 10]))).astype("f4")
    mine, theirs = tiny.sampler(choice, 9), EagerSampler(choice, 9)
    for i in range(len(rows)):
        [[token]] = tiny.verify(rows[i : i + 1], [mine], [()])
        row = torch.from_numpy(rows[i : i + 1])
        [want] = sample(row, [choice], [uniform(9, i)])
        if token != want:  # the neighbouring draws tell whether it was on the edge
            near = [sample(row, [choice], [uniform(9, i) + d])[0] for d in (-1e-5, 1e-5)]
            assert token in near
            return
        theirs.accept(want)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> CompiledBackend:
    folder = tmp_path_factory.mktemp("tiny")
    saved("qwen3", folder / "model")
    return backend_for(folder / "model", folder / "cache")


def test_broken_truncated_and_foreign_files_are_packed_again(tmp_path: Path) -> None:
    saved("llama", tmp_path / "model")
    cache = tmp_path / "cache"
    first = open_packed(tmp_path / "model", None, bits=8, cache=cache)
    whole = first.path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for broken in (
        b"",
        whole[:5],
        whole[: header - 9],
        whole[:-64],
        whole + bytes(64),
        whole.replace(source_key(tmp_path / "model", None, 8).encode(), b"0" * 64),
        b"\xff" * len(whole),
    ):
        first.path.write_bytes(broken)
        again = open_packed(tmp_path / "model", None, bits=8, cache=cache)
        assert again.path.read_bytes() == whole


def test_a_changed_model_is_packed_anew_and_another_key_is_refused(tmp_path: Path) -> None:
    saved("llama", tmp_path / "model")
    packed = open_packed(tmp_path / "model", None, bits=8, cache=tmp_path / "cache")
    before = source_key(tmp_path / "model", None, 8)
    with pytest.raises(DataError, match="something else"):
        PackedModel(packed.path, ModelConfig.load(tmp_path / "model"), "0" * 64)
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert source_key(tmp_path / "model", None, 8) != before
    assert source_key(tmp_path / "model", None, 4) != before


def test_an_unknown_instruction_set_is_named() -> None:
    with pytest.raises(library.Missing, match="EVERLOOP_ISA=sse9"):
        library.load("sse9")


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no huge pages in this kernel"
)
def test_packed_weights_ask_for_huge_pages(tmp_path: Path) -> None:
    saved("llama", tmp_path / "model")
    packed = open_packed(tmp_path / "model", None, bits=8, cache=tmp_path / "cache")
    mappings = Path("/proc/self/smaps").read_text()
    flags = mappings[mappings.index(str(packed.path)) :].split("VmFlags:")[1].splitlines()[0]
    assert "hg" in flags.split()

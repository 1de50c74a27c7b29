"""Held-out text from files and from packed data, and what scoring it gives."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import pytest
import torch

from everloop.data.pack import PackOptions, pack
from everloop.data.sources import Source
from everloop.engine.native import NativeEngine, NativeOptions
from everloop.errors import DataError, InvalidRequest
from everloop.evaluate.held_out import HeldOut, from_file, from_packed
from everloop.model import checkpoint
from everloop.model.tokenizer import Tokenizer

TEXTS = [
    f"文章{i}：今天天气很好，我们去公园走走吧。The park is fine.\nLine two." for i in range(40)
]


def test_packed_validation_text_comes_back_as_it_was(tmp_path: Path, model_dir: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS), encoding="utf-8")
    source = Source(name="own", files=(path,))
    pack((source,), model_dir, tmp_path / "packed", options=PackOptions(val_fraction=0.3))
    found = from_packed(tmp_path / "packed", model_dir)
    assert 0 < len(found) < len(TEXTS)
    assert set(found) < set(TEXTS)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidRequest, match="another tokenizer"):
        from_packed(tmp_path / "packed", tmp_path / "other")


def test_texts_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("just text")
    assert from_file(tmp_path / "a.txt") == ["just text"]
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n{"body": "two"}\n')
    with pytest.raises(DataError, match=r"b\.jsonl:2"):
        from_file(tmp_path / "b.jsonl")


def test_bits_are_those_of_the_model_itself(model_dir: Path) -> None:
    rows = [{"task": "held-out", "lang": "zh", "given": "今天天气", "rest": "很好，我们去公园。"}]
    suite = HeldOut(rows, "zh")

    async def main() -> float:
        engine = NativeEngine(model_dir, "small", NativeOptions(threads=1, quantization="none"))
        await engine.start()
        try:
            return (await suite.predict(engine, rows[0]))["nats"]
        finally:
            await engine.close()

    tokenizer, model = Tokenizer.load(model_dir), checkpoint.load(model_dir)[1]
    given, rest = (tokenizer.encode(rows[0][part]) for part in ("given", "rest"))
    with torch.no_grad():
        logits = model(torch.tensor([given + rest]))[0].log_softmax(-1)
    nats = -sum(float(logits[len(given) + i - 1, token]) for i, token in enumerate(rest))
    said = asyncio.run(main())
    assert said == pytest.approx(nats, rel=1e-3)
    bits = suite.metrics["bits per byte"].estimate(suite.statistics(rows, [{"nats": said}]))
    assert bits.value == pytest.approx(nats / math.log(2) / len(rows[0]["rest"].encode()), rel=1e-3)


def test_a_context_too_short_for_the_windows_is_no_number() -> None:
    rows = [{"task": "held-out", "lang": "en", "given": "a", "rest": "b"}]
    with pytest.raises(InvalidRequest, match="too short"):
        HeldOut(rows, "en").statistics(rows, [{"refused": "long"}])

"""pretrain, finetune and tokenizer as a user types them."""

# The fixtures are those of tests/train.
# ruff: noqa: F401, F811

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from everloop.model import checkpoint, lora
from everloop.model.tokenizer import Tokenizer
from tests.train.conftest import (
    example_data,
    model_dir,
    sentences,
    text_data,
    tokenizer_dir,
    write_rows,
)
from tests.train.small import metrics

from .conftest import Result, Run

SHORT = ("--tokens", "1024", "--sequence-length", "32", "--batch-tokens", "256")
FAST = (*SHORT, "--precision", "fp32")
TUNE = ("--sequence-length", "128", "--batch-tokens", "512", "--precision", "fp32")


def refused(result: Result, code: int, *words: str) -> None:
    assert result.code == code, result.err
    last = result.err.splitlines()[-1]
    assert last.startswith("error: ")
    for word in words:
        assert word in last
    assert "Traceback" not in result.err


def test_pretrain_from_a_size(
    run: Run, text_data: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run(
        "pretrain", str(text_data), "--tokenizer", str(tokenizer_dir), "--size", "d2", *FAST,
        "--context-length", "64", "--validate-steps", "2", "--out", str(out),
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "Model d2: 2 layers × 256, vocabulary 320" in done.err
    assert "1,024 tokens in 4 steps of 256 (8 rows × 32, 8 at once)" in done.err
    assert "Rates: matrices " in done.err
    assert "ETA" in done.err
    assert "\x1b" not in done.err  # no terminal, no colours
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert all(
        row.keys() == {"step", "loss", "tokens_per_s", "gflops_per_s", "rate"} for row in steps
    )
    assert steps[0]["loss"] == pytest.approx(math.log(320), rel=0.05)
    assert all(row["tokens_per_s"] > 0 and row["gflops_per_s"] > 0 for row in steps)
    checks = [row for row in rows if "validation" in row]
    assert [row["step"] for row in checks] == [2, 4]
    assert all(row["validation"].keys() == {"bpb_en", "bpb_zh"} for row in checks)
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    config, model = checkpoint.load(out / "model")
    assert (config.max_position_embeddings, config.eos_token_ids) == (64, (2, 0))
    assert model.lm_head.weight.shape == (320, 256)
    record = json.loads((out / "model" / "run.json").read_text("utf-8"))
    assert record["data"]["splits"]["train"]["tokens"] > 0
    assert record["targets"] <= record["tokens"] == 1024
    again = run("pretrain", str(text_data), "--base", str(out / "model"), "--out", str(out))
    refused(again, 2, "is finished", "--out")


def test_minutes_are_turned_into_tokens_by_measuring(
    run: Run, text_data: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    done = run(
        "pretrain", str(text_data), "--tokenizer", str(tokenizer_dir), "--size", "d2",
        "--minutes", "0.01", "--probe-seconds", "0.3", "--sequence-length", "32",
        "--batch-tokens", "256", "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert done.code == 0, done.err
    speed = float(done.err.split("Measured ")[1].split(" tokens/s")[0].replace(",", ""))
    plan = json.loads((tmp_path / "out" / "plan.json").read_text("utf-8"))
    assert plan["plan"]["tokens"] == pytest.approx(speed * 0.6, rel=0.01, abs=2)
    assert f"{plan['plan']['tokens']:,} tokens in " in done.err
    assert ("bfloat16 autocast" in done.err) == plan["bf16"]


def test_minutes_alone_choose_a_size(
    run: Run, text_data: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    done = run(
        "pretrain", str(text_data), "--tokenizer", str(tokenizer_dir), "--minutes", "0.002",
        "--probe-seconds", "0.1", "--sequence-length", "32", "--batch-tokens", "64",
        "--precision", "fp32", "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "Matrix products run at " in done.err
    assert "Model d2: " in done.err
    assert "in float32." in done.err


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ((), ("--minutes", "--flops", "--size")),
        (("--tokens", "1000"), ("--size",)),
        (("--size", "d3"), ("--size 'd3' is unknown", "d4")),
        (("--size", "d2", "--precision", "fp8"), ("--precision 'fp8'", "bf16")),
        (("--size", "d2", "--save-dtype", "int8"), ("--save-dtype 'int8'",)),
        (("--size", "d2", "--tokens", "0"), ("--tokens 0 must be above 0",)),
        (("--minutes", "-1"), ("--minutes -1.0 must be above 0",)),
        (("--flops", "nan"), ("--flops nan",)),
        (("--size", "d2", "--seed", "-1"), ("seed=-1",)),
        (("--size", "d2", "--sequence-length", "2000"), ("--sequence-length 2000", "1024")),
        (("--size", "d2", "--batch-tokens", "100", "--sequence-length", "32"), ("batch_tokens",)),
        (("--size", "d2", "--fsdp"), ("--fsdp needs several processes",)),
    ],
)  # fmt: skip
def test_what_pretrain_refuses(
    changed: tuple[str, ...],
    words: tuple[str, ...],
    run: Run,
    text_data: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    base = ("pretrain", str(text_data), "--tokenizer", str(tokenizer_dir), "--out", str(out))
    given = changed if "--precision" in changed else (*changed, "--precision", "fp32")
    refused(run(*base, *given), 2, *words)
    assert not out.exists()


def test_pretrain_needs_the_tokenizer_of_its_data(
    run: Run, text_data: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    refused(run("pretrain", str(text_data), "--size", "d2", "--out", out), 2, "--tokenizer")
    other = tmp_path / "other"
    other.mkdir()
    value = json.loads((tokenizer_dir / "tokenizer.json").read_text("utf-8"))
    (other / "tokenizer.json").write_text(json.dumps(value, indent=1), "utf-8")
    arguments = ("pretrain", str(text_data), "--size", "d2", "--out", out)
    refused(run(*arguments, "--tokenizer", str(other)), 2, "packed with another tokenizer")
    missing = run("pretrain", str(tmp_path / "none"), *arguments[2:], "--tokenizer", str(other))
    assert missing.code in (1, 2, 3)
    assert "none" in missing.err.splitlines()[-1]
    (tmp_path / "file").write_text("")
    blocked = run(
        "pretrain", str(text_data), "--tokenizer", str(tokenizer_dir), "--size", "d2", *FAST,
        "--out", str(tmp_path / "file" / "out"),
    )  # fmt: skip
    refused(blocked, 1, "Choose another --out")


def test_a_diverging_loss_stops_the_run(
    run: Run, text_data: Path, model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run(
        "pretrain", str(text_data), "--base", str(model_dir), *FAST, "--matrix-lr", "1e30",
        "--embedding-lr", "1e30", "--warmup-steps", "0", "--out", str(out),
    )  # fmt: skip
    refused(done, 2, "diverged", "--matrix-lr")
    assert not (out / "model").exists()


def test_no_example_fits(run: Run, example_data: Path, model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(
        "finetune", str(model_dir), str(example_data), "--sequence-length", "8",
        "--batch-tokens", "64", "--precision", "fp32", "--out", str(out),
    )  # fmt: skip
    refused(done, 2, "No document fits", "--sequence-length")
    assert not out.exists()


def test_tune_on_a_file_of_rows_and_register(run: Run, model_dir: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 60)
    done = run(
        "finetune", str(model_dir), str(rows), *TUNE, "--epochs", "0.5", "--name", "tuned",
        "--out", str(tmp_path / "full"),
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "Registered as tuned: try `everloop chat --model tuned`." in done.err
    assert (tmp_path / "full" / "packed" / "manifest.json").is_file()
    shown = json.loads(run("models", "list", "--json").out)
    (version,) = [row for row in shown if row["name"] == "tuned"]
    assert (version["kind"], version["version"]) == ("full", "1")
    # An adapter on it, by name: and that is registered on its base.
    done = run(
        "finetune", "tuned", str(rows), *TUNE, "--epochs", "0.5", "--lora", "2", "--name",
        "adapted", "--out", str(tmp_path / "lora"),
    )  # fmt: skip
    assert done.code == 0, done.err
    shown = json.loads(run("models", "list", "--json").out)
    (version,) = [row for row in shown if row["name"] == "adapted"]
    assert (version["kind"], version["base"]) == ("lora", "tuned@1")
    lora.load_merged(tmp_path / "lora" / "model", tmp_path / "full" / "model")
    refused(run("finetune", "adapted", str(rows), "--out", str(tmp_path / "x")), 2, "LoRA adapter")


def test_tune_from_packed_rows_goes_on(
    run: Run, example_data: Path, model_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ("finetune", str(model_dir), str(example_data), *TUNE, "--out", str(out))
    assert run(*arguments, "--tokens", "1024").code == 0
    (out / "model" / "run.json").unlink()
    for file in (out / "model").iterdir():
        file.unlink()
    (out / "model").rmdir()
    refused(run(*arguments, "--lora", "2"), 2, "kind=finetune")
    longer = run(*arguments, "--tokens", "2048")
    assert longer.code == 0, longer.err
    assert "Going on from step-00000002 of 4." in longer.err
    assert [row["step"] for row in metrics(out) if "loss" in row] == [1, 2, 3, 4]


def test_what_finetune_refuses(
    run: Run, example_data: Path, model_dir: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    base = ("finetune", str(model_dir), str(example_data), "--out", out, *TUNE)
    refused(run("finetune", "none", str(example_data), "--out", out), 3, "`none`")
    refused(run("finetune", str(model_dir), str(tmp_path / "no"), "--out", out), 3, "no such file")
    # Before any training: a name that can't be registered.
    refused(run(*base, "--name", "bad name"), 2, "bad name")
    refused(run(*base, "--name", "gpt-4"), 2, "gpt-4", "alias")
    refused(run(*base, "--name", "fine", "--lora", "2"), 2, "everloop import")
    refused(run(*base, "--lora", "-1"), 2, "lora")
    assert not Path(out).exists()
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    refused(run("finetune", str(model_dir), str(empty), "--out", out), 1, "empty")
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    done = run("finetune", str(model_dir), str(wrong), "--out", out)
    refused(done, 1, "no training document is left")
    assert "left out: " in done.err
    assert "wrong.jsonl:1" in done.err


def test_odd_rows_are_said_before_training(run: Run, model_dir: Path, tmp_path: Path) -> None:
    rows = [{"text": f"the food was good {i}", "label": "positive"} for i in range(60)]
    rows += [{"text": "the food was bad", "label": "negative"}, {"text": " ", "label": "positive"}]
    path = tmp_path / "odd.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run(
        "finetune", str(model_dir), str(path), *TUNE, "--tokens", "512",
        "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert done.code == 0, done.err
    said = done.err.index("odd: Seen only once: label negative. It is kept")
    assert said < done.err.index("left out: ") < done.err.index("ETA")
    assert "odd.jsonl:62" in done.err


def test_a_tokenizer_is_trained_and_shown(run: Run, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(sentences(400, 1)), "utf-8")
    out = tmp_path / "tokenizer"
    done = run(
        "tokenizer", "train", str(tmp_path / "text.txt"), "--out", str(out), "--vocab-size", "300",
        "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["vocab_size"] == 300
    assert all(row["bytes_per_token"] >= 1 for row in report["languages"].values())
    shown = run("tokenizer", "show", str(out), "今天 the cat", "--json")
    found = json.loads(shown.out)
    assert "天" in found["pieces"]  # in the text often; a rarer character may be in parts
    assert Tokenizer.load(out).decode(found["ids"]) == "今天 the cat"
    assert "bytes per token" in run("tokenizer", "show", str(out), "今天 the cat").out
    arguments = ("tokenizer", "train", str(tmp_path / "text.txt"), "--out", str(tmp_path / "x"))
    refused(run(*arguments, "--vocab-size", "100"), 2, "vocab_size=100 is too small")
    refused(run(*arguments, "--vocab-size", "9000"), 2, "--vocab-size")
    refused(run("tokenizer", "train", str(tmp_path / "none.txt"), *arguments[3:]), 3, "none.txt")

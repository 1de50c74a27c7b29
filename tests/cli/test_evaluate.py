"""`everloop evaluate` as a user types it: a folder, a server, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.engine.conftest import model_dir
from tests.server.process import KEY, native

from .conftest import Run

__all__ = ["model_dir"]

ROWS = Path(__file__).parents[1] / "evaluate" / "rows"


def test_a_folder_is_measured(run: Run, model_dir: Path, tmp_path: Path) -> None:
    text, card, out = tmp_path / "text.txt", tmp_path / "card" / "README.md", tmp_path / "out"
    text.write_text("今天天气很好。" * 100)
    result = run(
        "evaluate", str(model_dir), "--rows", str(ROWS), "--suite", "own", "--limit", "2",
        "--suite", "bits-per-byte", "--text", str(text), "--threads", "1", "--out", str(out),
        "--card", str(card),
    )  # fmt: skip
    assert result.code == 0, result.err
    header, *lines = result.out.splitlines()
    assert header.split("\t") == ["suite", "metric", "model", "baseline", "", "rows"]
    measured = {line.split("\t")[0]: line.split("\t") for line in lines}
    assert measured["intent.own"][1] == "accuracy"
    assert len(measured) == 11
    assert "not measured: The model's context is too short" in result.err
    report = json.loads((out / "report.json").read_text())
    assert report["model"]["name"] == model_dir.name
    assert f"# {model_dir.name}\n" in card.read_text()
    # Shown again beside itself, without a model; and refused beside another's rows.
    again = run(
        "evaluate", str(out / "report.json"), "--compare", str(out), "--out", str(tmp_path / "b")
    )
    assert again.code == 0, again.err
    assert "topic.own\taccuracy ↑\t" in again.out
    assert "\t0.0\t" in again.out
    assert "report.html" in again.err
    assert "Beside" in (tmp_path / "b" / "report.html").read_text("utf-8")
    other = run(
        "evaluate", str(model_dir), "--rows", str(ROWS), "--suite", "topic", "--limit", "1",
        "--compare", str(out / "report.json"), "--threads", "1", "--out", str(tmp_path / "c"),
    )  # fmt: skip
    assert other.code == 2
    assert "was measured on other rows: topic.own" in other.err
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--suite", "nonsense"], 2, "There is no suite 'nonsense'"),
        (["--suite", "intent.clinc150"], 3, "github.com/clinc/oos-eval"),
        (["--rows", "nowhere"], 3, "build.py"),
        (["--suite", "bits-per-byte"], 3, "--packed"),
        (["--about", "nowhere"], 3, "card.en.md"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    run: Run,
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)  # where no recipe has written rows
    result = run("evaluate", str(model_dir), *arguments)
    assert result.code == code
    assert says in result.err
    assert result.err.count("\n") == 1


def test_an_unknown_model_is_not_found(run: Run) -> None:
    result = run("evaluate", "no-such-model", "--suite", "dialogue")
    assert (result.code, result.out) == (3, "")
    assert "no-such-model" in result.err


def test_a_server_is_measured_by_its_url(run: Run, model_dir: Path, tmp_path: Path) -> None:
    with native(tmp_path, model_dir) as server:
        result = run(
            "evaluate", "gpt-4", "--url", f"{server.url}/v1", "--key", KEY, "--rows", str(ROWS),
            "--suite", "sentiment", "--suite", "translate.own", "--json",
        )  # fmt: skip
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert [r["name"] for r in report["results"]] == ["sentiment.own", "translate.own"]
    assert report["model"]["source"].startswith("http://127.0.0.1")

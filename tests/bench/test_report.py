"""The table, the pages and the chart, from recorded results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench.peers import chart, report
from bench.peers.goals import GOALS, Goal
from bench.peers.interleave import estimate
from bench.peers.measures import ROWS, curves

ROOT = Path(__file__).parents[2]
RECORDED = Path(__file__).with_name("results.json")


@pytest.fixture
def results() -> dict[str, Any]:
    value: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return value


def goal(**given: Any) -> Goal:
    return Goal(measure="m", text="", text_zh="", **given)


def test_a_rate_is_compared_by_its_median() -> None:
    series = {"everloop": [90.0, 300.0, 100.0], "llama.cpp": [40.0, 50.0, 45.0]}
    want = goal(over="llama.cpp", at_least=2.0)
    assert want.value(series) == pytest.approx(100 / 45)
    assert want.met(series) is True
    assert goal(over="llama.cpp", at_least=2.3).met(series) is False


def test_seconds_are_compared_the_other_way_round() -> None:
    series = {"everloop": [2.0], "llama.cpp": [7.0]}
    assert goal(over="llama.cpp", at_least=3.0, faster=True).value(series) == 3.5


def test_at_most_and_absolute_goals() -> None:
    series = {"everloop": [1.1], "file": [1.0]}
    assert goal(over="file", at_most=1.15).met(series) is True
    assert goal(over="file", at_most=1.05).met(series) is False
    assert goal(at_most=1.0).met(series) is False
    assert goal(at_most=1.0).bound == "≤ 1"
    assert goal(at_least=0.88, percent=True).bound == "≥ 88%"


def test_a_missing_side_decides_nothing() -> None:
    assert goal(over="llama.cpp", at_least=1.0).met({"everloop": [1.0]}) is None
    assert goal(over="llama.cpp", at_least=1.0).met({"everloop": [], "llama.cpp": [1.0]}) is None


def test_drafted_text_that_differs_never_meets_its_goal() -> None:
    want = goal(over="everloop (plain)", at_least=2.0, faster=True)
    series = {"everloop": [1.0], "everloop (plain)": [9.0], "everloop (same tokens)": [1.0]}
    assert want.met(series) is True
    assert want.met({**series, "everloop (same tokens)": [1.0, 0.0]}) is False


def test_every_row_has_goals_and_every_goal_a_row() -> None:
    assert {g.measure for g in GOALS} == {m.name for m in ROWS}
    names = [m.name for m in (*ROWS, *curves())]
    assert len(set(names)) == len(names)
    assert all((g.at_least is None) != (g.at_most is None) for g in GOALS)


def test_series_of_the_goals_are_measured(results: dict[str, Any]) -> None:
    """In recorded results every series that a goal names is there, but for skipped sides."""
    for each in GOALS:
        series = results["values"].get(each.measure)
        if series and not results["skipped"].get(each.measure):
            assert each.value(series) is not None, each


def test_everything_is_measured_in_a_dozen_minutes() -> None:
    assert estimate((*ROWS, *curves()), 5) < 12 * 60


def test_lines_have_numbers_once_and_every_goal(results: dict[str, Any]) -> None:
    lines = [line for line in report.lines(results) if line.measure.name == "read-0.6b"]
    assert [line.bound for line in lines] == ["≥ 3", "≥ 1.7"]
    assert lines[0].cells == ("77.9", "34.2", "117")
    assert lines[1].cells == ("", "", "")
    assert lines[0].limit == "487 (16%)"
    assert lines[0].value == "2.27 × llama.cpp"
    assert lines[0].met is False


def test_further_series_stand_in_brackets(results: dict[str, Any]) -> None:
    (line, _) = (line for line in report.lines(results) if line.measure.name == "questions-small")
    assert line.cells[:2] == ("539 ms", "1.22 s (no cache 3.96 s)")
    (line,) = (line for line in report.lines(results) if line.measure.name == "undraftable-small")
    assert (line.cells, line.value, line.met) == (("–", "–", "–"), "–", None)


def test_what_was_not_measured_is_named(results: dict[str, Any]) -> None:
    assert "undraftable-small, everloop: the engine doesn't draft" in report.section(results)


def test_the_terminal_shows_the_table(
    results: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    report.show(results)
    shown = capsys.readouterr().out
    assert "2.27 × llama.cpp" in shown
    assert "AMD EPYC, 2 cores" in shown
    assert "default model, 8 bit: tokens/s by prompt tokens" in shown
    report.show({**results, "values": {}})
    assert "read 512" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["performance.md", "performance.zh-CN.md"])
def test_a_page_keeps_what_is_written_by_hand(
    results: dict[str, Any], tmp_path: Path, name: str
) -> None:
    for each in ("performance.md", "performance.zh-CN.md"):
        (tmp_path / each).write_text((ROOT / "docs" / each).read_text("utf-8"), "utf-8")
    before = (tmp_path / name).read_text("utf-8")
    report.write_pages(results, tmp_path)
    first = (tmp_path / name).read_text("utf-8")
    report.write_pages(results, tmp_path)
    assert (tmp_path / name).read_text("utf-8") == first
    assert "| 77.9 | 34.2 | 117 |" in first
    begin, end = before.index(report.BEGIN), before.index(report.END)
    assert first.startswith(before[:begin])
    assert first.endswith(before[end:])


def test_pages_are_in_their_own_language(results: dict[str, Any]) -> None:
    for measure in ROWS:
        if measure.name in results["values"]:
            assert measure.title in report.section(results)
            assert measure.title_zh in report.section(results, chinese=True)


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="measured"):
        report.replaced("# Performance\n", "new")


def test_backslashes_are_no_pattern() -> None:
    page = f"a\n{report.BEGIN}\nold\n{report.END}\nb"
    assert report.replaced(page, r"\1 \g<0>") == f"a\n{report.BEGIN}\n\\1 \\g<0>\n{report.END}\nb"


def test_the_chart_is_drawn_where_there_are_curves(results: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "chart.png"
    assert chart.draw(results, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    found = chart.points(results, "prompt", "small")
    assert [n for n, _ in found["llama.cpp"]] == [128, 256, 512, 1024, 2048, 4096]
    assert not chart.draw({**results, "values": {}}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()

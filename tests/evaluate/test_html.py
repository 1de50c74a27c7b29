"""The HTML page: well-formed, whole in itself, in two languages, harmless whatever a model says."""

from __future__ import annotations

import asyncio
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from everloop.engine.interface import Chunk, GenerateRequest, Generation
from everloop.evaluate import plots
from everloop.evaluate.evaluate import Subject, evaluate
from everloop.evaluate.pictures import curves
from everloop.evaluate.rows import available
from everloop.evaluate.suites import load
from tests.tasks.small_engine import SmallEngine, SmallGeneration

ROWS = Path(__file__).parent / "rows"
VOID = {"meta", "input", "br", "link"}
NASTY = "</td><script>alert(1)</script>\x00\x1b &amp; 好"


class Nasty(SmallEngine):
    async def generate(self, request: GenerateRequest) -> Generation:
        class Says(SmallGeneration):
            async def __aiter__(self):
                yield Chunk(text=NASTY)
                self.end()
                yield Chunk(finish_reason="stop", usage=self.usage())

        return Says(self, request)


class Tags(HTMLParser):
    """Every tag is closed by its own."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.words: dict[str, list[str]] = {"en": [], "zh": []}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if given.get("class") in self.words and tag != "html":
            self.words[given["class"] or ""].append(tag)
        if tag not in VOID and not tag.startswith(("line", "rect", "path", "circle", "poly")):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not tag.startswith(("line", "rect", "path", "circle", "poly")):
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    folder = tmp_path_factory.mktemp("page")
    suites, missing = load([*available(ROWS), "dialogue"], ROWS, [], 0)
    given = {"missing": {**missing, "x.<y>": "No <data>."}, "limit": 0, "cache": folder / "cache"}
    other = asyncio.run(
        evaluate(SmallEngine(), Subject(name="other"), suites, out=folder / "a", **given)
    )
    report = asyncio.run(
        evaluate(Nasty(), Subject(name="a<b"), suites, out=folder / "b", others=[other], **given)
    )
    return (folder / "b" / "report.html").read_text("utf-8"), report


def test_the_page_is_whole_and_loads_nothing(made: tuple[str, dict]) -> None:
    html, report = made
    tags = Tags()
    tags.feed(html)
    tags.close()
    assert tags.open == []
    assert tags.links == []
    assert "http" not in html.replace("http-equiv", "")
    assert len(tags.words["en"]) == len(tags.words["zh"]) > 50
    for result in report["results"]:
        assert f"<details id='{result['name']}'>" in html
    assert "a&lt;b" in html
    assert "x.&lt;y&gt;" in html


def test_what_a_model_says_is_only_text(made: tuple[str, dict]) -> None:
    html, _ = made
    assert html.count("<script>") == 1  # the page's own
    assert "\x00" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_pictures_are_svg(made: tuple[str, dict]) -> None:
    html, report = made
    pictures = re.findall(r"<svg.*?</svg>", html, re.S)
    roots = [ET.fromstring(picture) for picture in pictures]
    # All suites, differences, differences from the other; then calibration where labels are scored.
    assert len(roots) >= 3
    dots = [root.findall(".//circle") for root in roots[:3]]
    percent = [r for r in report["results"] if r["percent"][next(iter(r["metrics"]))]]
    assert len(dots[0]) >= len(percent)
    for root in roots:
        width = float(root.attrib["width"])
        for circle in root.findall(".//circle"):
            assert 0 <= float(circle.attrib["cx"]) <= width


def test_ticks_are_round_and_inside() -> None:
    assert plots.ticks(0, 100) == [0, 20, 40, 60, 80, 100]
    assert plots.ticks(-7, 7) == [-5, 0, 5]
    for low, high in ((0, 0.3), (-41.2, 41.2), (3, 3.0001)):
        found = plots.ticks(low, high)
        assert found
        assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


def test_lines_stay_in_the_picture() -> None:
    series = [plots.Series(name="a", points=[(90, 85, 95), (60, 50, 70)])]
    root = ET.fromstring(plots.lines(["0", "1"], series, title="t"))
    points = root.find(".//polyline").attrib["points"].split()
    ys = [float(point.split(",")[1]) for point in points]
    assert 0 < ys[0] < ys[1] < float(root.attrib["viewBox"].split()[3])


def test_noise_is_drawn_as_curves_beside_the_baseline() -> None:
    def points(*values: float) -> dict[str, dict[str, float]]:
        names = ("clean accuracy", "accuracy, severity 3", "accuracy, severity 1")
        return {
            name: {"value": value, "low": value - 0.1, "high": value + 0.1}
            for name, value in zip(names, values, strict=True)
        }

    result = {
        "name": "robustness.x", "title": "X", "lang": "en", "task": "robustness",
        "metrics": points(0.8, 0.5, 0.7), "baselines": {"copy": points(0.7, 0.6, 0.65)},
    }  # fmt: skip
    html = curves([result])
    (drawn,) = re.findall(r"<svg.*?</svg>", html, re.S)
    model, simple = ET.fromstring(drawn).findall(".//polyline")
    ys = [float(point.split(",")[1]) for point in model.attrib["points"].split()]
    assert ys == sorted(ys)  # falls with severity, whatever the order of the metrics
    assert len(simple.attrib["points"].split()) == 3
    assert "噪声" in html
    assert curves([{**result, "task": "topic"}]) == ""

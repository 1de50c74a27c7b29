"""The pages say what the program does: everything is there, in both languages, up to date."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from everloop.server import (
    chat,
    completions,
    edits,
    embeddings,
    engines,
    models,
    parameters,
    status,
)
from everloop.settings import SPECS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LOG = ROOT / "docs" / "lab-log.md"  # for the workshop: in English only
ENGLISH = [page for page in PAGES if not page.name.endswith(".zh-CN.md") and page != LOG]
ROUTERS = (chat, completions, edits, embeddings, engines, models, status)


def twin(page: Path) -> Path:
    return page.with_name(page.name.removesuffix(".md") + ".zh-CN.md")


def lines(page: Path) -> Iterator[str]:
    """Lines outside fenced blocks."""
    fenced = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield line


def headings(page: Path) -> list[str]:
    return [line for line in lines(page) if line.startswith("#")]


def names(page: Path) -> set[str]:
    """Everything in backticks, outside fenced blocks."""
    return set(re.findall(r"`([^`]+)`", "\n".join(lines(page))))


@pytest.mark.parametrize("page", ENGLISH, ids=lambda page: page.name)
def test_pages_come_in_pairs_with_matching_headings(page: Path) -> None:
    english, chinese = headings(page), headings(twin(page))
    assert [h.count("#") for h in english] == [h.count("#") for h in chinese]
    assert twin(page).name in page.read_text(encoding="utf-8")
    assert page.name in twin(page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [*ENGLISH, *map(twin, ENGLISH), LOG], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for line in lines(page):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", line):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_generated_pages_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["settings.md", "settings.zh-CN.md"])
def test_every_setting_is_documented(name: str) -> None:
    documented = names(ROOT / "docs" / name)
    for spec in SPECS.values():
        assert {spec.name, spec.flag, *spec.env} <= documented


@pytest.mark.parametrize("name", ["api.md", "api.zh-CN.md"])
def test_every_path_and_parameter_is_documented(name: str) -> None:
    documented = names(ROOT / "docs" / name)
    for module in ROUTERS:
        for route in module.router.routes:
            assert isinstance(route, APIRoute)
            (method,) = route.methods
            assert f"{method} {route.path.replace(':path', '')}" in documented
    for kind in (
        parameters.ChatParameters,
        parameters.CompletionParameters,
        parameters.EditParameters,
        parameters.EmbeddingParameters,
    ):
        assert set(kind.model_fields) | set(kind.tolerated) <= documented


def test_the_generator_speaks_chinese_for_everything() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert set(generate.CHINESE["settings"]) == set(SPECS)
    assert set(generate.CHINESE["commands"]) == set(generate.COMMANDS)

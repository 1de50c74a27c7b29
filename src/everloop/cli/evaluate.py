"""`everloop evaluate`: what a model can do, in numbers beside simple baselines."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from everloop.cli.flags import takes_settings
from everloop.cli.output import AsJson, note, print_json, print_table
from everloop.errors import InvalidRequest, NotFound
from everloop.settings import Settings

if TYPE_CHECKING:
    from everloop.engine.interface import Engine
    from everloop.evaluate.evaluate import Subject
    from everloop.store.registry import Registry

CARD = "README.md"
BUILT = Path("recipes/everloop-small/built")  # where the recipe's build.py writes rows


@takes_settings("home", "data", "threads")
def evaluate(
    settings: Settings,
    model: Annotated[
        str | None,
        typer.Argument(
            help="Name of a model, its folder, or a report.json to show. Default: the setting."
        ),
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(help="Suite, task or source; may be repeated.", show_default="all"),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Rows of each suite; 0: all.")] = 300,
    rows: Annotated[
        Path | None, typer.Option(help="Folder with validation/ and train/ rows.")
    ] = None,
    packed: Annotated[
        Path | None, typer.Option(help="Packed pretraining data, for bits per byte.")
    ] = None,
    text: Annotated[
        list[Path] | None, typer.Option(help="Held-out text instead of --packed.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the report goes.")] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(help="Another model's report.json on the same rows; may be repeated."),
    ] = None,
    card: Annotated[Path | None, typer.Option(help="Write the model card here.")] = None,
    about: Annotated[
        Path | None, typer.Option(help="Recipe folder: its part of the card is put in.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Measure the model at this base URL.")] = None,
    key: Annotated[str | None, typer.Option(help="Key for --url.")] = None,
    json: AsJson = False,
) -> None:
    """Measure a model on tasks and held-out text. Stopped, it goes on where it was."""
    from everloop.data.files import disk_errors, write_atomic
    from everloop.evaluate import card as cards
    from everloop.evaluate.compare import read_report
    from everloop.evaluate.evaluate import evaluate as run
    from everloop.evaluate.suites import load

    name = model or settings.model
    others = [read_report(path) for path in compare or []]
    if name.endswith(".json") and url is None:
        _show(read_report(Path(name)), others, out, json=json)
        return
    told = cards.about(about) if about is not None else cards.About()
    subject, folder = _subject(settings, name, url)
    texts = _texts(packed, text or [], folder)
    suites, missing = load(suite or ["all"], _rows(settings, rows), texts, limit)
    for left_out, why in missing.items():
        note(f"{left_out} is left out: {why}")
    if not suites:
        raise NotFound("There is nothing to measure. Give rows with --rows DIR.", param="rows")
    evaluations = settings.home / "evaluations"
    target = out or evaluations / re.sub(
        r"[^\w.-]+", "-", f"{subject.name}-{subject.sha256[:8] or 'remote'}"
    )

    async def measured() -> dict[str, Any]:
        async with _engine(settings, name, url, key) as engine:
            return await run(
                engine,
                subject,
                suites,
                missing=missing,
                limit=limit,
                out=target,
                cache=evaluations / "baselines",
                others=others,
            )

    report = asyncio.run(measured())
    if card is not None:
        history = cards.runs(folder) if folder is not None else []
        with disk_errors(card):
            card.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(card, cards.card(report, history, told).encode("utf-8", "replace"))
    _print(report, target, json=json)


def _show(
    report: dict[str, Any], others: list[dict[str, Any]], out: Path | None, *, json: bool
) -> None:
    """A report made before, beside others."""
    from everloop.evaluate.compare import compare
    from everloop.evaluate.evaluate import write

    report["compared"] = [compare(report, other) for other in others]
    if out is not None:
        write(report, out)
    _print(report, out, json=json)


def _print(report: dict[str, Any], target: Path | None, *, json: bool) -> None:
    if json:
        print_json(report)
        return
    _print_results(report)
    for other in report["compared"]:
        _print_differences(report, other)
    if target is not None:
        note(f"The report is in {target / 'report.html'}, report.md and report.json.")


def _print_differences(report: dict[str, Any], other: dict[str, Any]) -> None:
    from everloop.evaluate.report import DIFFERENCE_COLUMNS, differences, left_alone

    note(f"{report['model']['name']} beside {other['model']['name']} ({other['date']}):")
    print_table(DIFFERENCE_COLUMNS[False], differences(other))
    for remark in left_alone(other):
        note(remark)


def _print_results(report: dict[str, Any]) -> None:
    from everloop.evaluate.report import first, interval

    lines = []
    for result in report["results"]:
        name = first(result)
        percent = result["percent"][name]
        simple = next(iter(result["baselines"]), None)
        baseline = result["baselines"][simple][name] if simple else None
        lines.append(
            (
                result["name"],
                name,
                interval(result["metrics"][name], percent),
                interval(baseline, percent) if baseline else "",
                simple or "",
                result["rows"],
            )
        )
    print_table(("suite", "metric", "model", "baseline", "", "rows"), lines)


def _subject(settings: Settings, name: str, url: str | None) -> tuple[Subject, Path | None]:
    """What is measured, and the folder of its files if it is ours."""
    from everloop.evaluate.evaluate import Subject
    from everloop.store.files import folder_sha256, folder_sums

    if url is not None:
        return Subject(name=name, source=url), None
    if _is_folder(name):
        folder, version, source = Path(name).resolve(), "", "a folder"
        name = folder.name
    else:
        with _registry(settings) as registry:
            found = registry.get(name)
        folder, name, version, source = found.path, found.name, found.version, found.source
    # Without the card, which is written from the numbers and may lie beside the weights.
    sums = {file: sha256 for file, sha256 in folder_sums(folder).items() if file != CARD}
    subject = Subject(name=name, version=version, sha256=folder_sha256(sums), source=source)
    return subject, folder


def _is_folder(name: str) -> bool:
    return (Path(name) / "config.json").is_file()


@contextmanager
def _registry(settings: Settings) -> Iterator[Registry]:
    from everloop.store.database import Database
    from everloop.store.registry import Registry

    with closing(Database(settings.home)) as db:
        yield Registry(db, default_model=settings.model)


@asynccontextmanager
async def _engine(
    settings: Settings, name: str, url: str | None, key: str | None
) -> AsyncIterator[Engine]:
    """The started engine."""
    if url is None and not _is_folder(name):
        from everloop.engine.pool import EnginePool

        with _registry(settings) as registry:
            pool = EnginePool(registry, settings)
            try:
                yield await pool.get(name)
            finally:
                await pool.close()
        return
    if url is not None:
        from everloop.engine.remote import RemoteEngine

        engine: Engine = RemoteEngine(url, key or settings.api_key, name)
    else:
        from everloop.engine.native import NativeEngine, NativeOptions

        folder = Path(name)
        engine = NativeEngine(folder, folder.name, NativeOptions(threads=settings.threads))
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


def _rows(settings: Settings, given: Path | None) -> Path | None:
    """The folder with rows: given, the data folder itself, or where the recipe writes them."""
    if given is not None:
        if not (given / "validation").is_dir():
            raise NotFound(
                f"{given} has no folder validation. Make rows with: "
                "python recipes/everloop-small/build.py --only tasks",
                param="rows",
            )
        return given
    for folder in (settings.data, BUILT):
        if folder is not None and (folder / "validation").is_dir():
            return folder
    return None


def _texts(packed: Path | None, files: list[Path], model: Path | None) -> list[str]:
    """Held-out texts for bits per byte; none if none are given."""
    if packed is None and not files:
        return []
    from everloop.evaluate.held_out import from_file, from_packed

    texts = [text for path in files for text in from_file(path)]
    if packed is not None:
        if model is None:
            raise InvalidRequest(
                "--packed holds tokens of one tokenizer, which a remote model doesn't share. "
                "Give the text with --text FILE.",
                param="packed",
            )
        texts += from_packed(packed, model)
    return texts

"""Two models on the same rows: differences with paired intervals, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from everloop.errors import InvalidRequest, NotFound
from everloop.evaluate.estimate import Estimate, spread, unpacked

FORMAT = 2  # of report.json
Report = Mapping[str, Any]


def read_report(path: Path) -> dict[str, Any]:
    """A `report.json`. Raises InvalidRequest if it is none, or from before draws were kept."""
    if path.is_dir():
        path = path / "report.json"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise NotFound(f"{path}: can't be read ({error.strerror}).", param="compare") from None
    try:
        report = json.loads(text)
        form = report["format"]
    except (ValueError, KeyError, TypeError):
        raise InvalidRequest(
            f"{path} is no report. Give the report.json that `everloop evaluate` wrote.",
            param="compare",
        ) from None
    if form != FORMAT:
        raise InvalidRequest(
            f"{path} is a report of form {form}, this version reads {FORMAT}. Make it again with "
            "the same command; what was answered is kept.",
            param="compare",
        )
    found: dict[str, Any] = report
    return found


def hashes(report: Report) -> dict[str, str]:
    """The hash of the rows of each suite."""
    return {result["name"]: result["rows_hash"] for result in report["results"]}


def require_same_rows(ours: Mapping[str, str], other: Report) -> None:
    """Raises InvalidRequest if a suite was measured on other rows there, or none is in both."""
    theirs, name = hashes(other), other["model"]["name"]
    different = [suite for suite in ours if theirs.get(suite, ours[suite]) != ours[suite]]
    if different:
        raise InvalidRequest(
            f"{name} was measured on other rows: {', '.join(different)}. Numbers from different "
            "rows don't compare: measure both with the same --rows, --packed or --text and the "
            f"same --limit (there {other['limit']}), or choose suites with --suite.",
            param="compare",
        )
    if not ours.keys() & theirs.keys():
        raise InvalidRequest(
            f"{name}'s report has none of these suites: {', '.join(ours)}. It has "
            f"{', '.join(theirs) or 'none'}.",
            param="compare",
        )


def compare(report: Report, other: Report) -> dict[str, Any]:
    """By how much the first model's metrics are above the other's, on the suites of both.

    The bootstrap draws equal rows for equal counts, so that the draws of two reports are pairs.
    `better` is True or False where the interval leaves out 0, else None.
    """
    require_same_rows(hashes(report), other)
    theirs = {result["name"]: result for result in other["results"]}
    compared = [
        {
            "name": result["name"],
            "title": result["title"],
            "task": result["task"],
            "lang": result["lang"],
            "rows": result["rows"],
            "metrics": _metrics(result, theirs[result["name"]]),
        }
        for result in report["results"]
        if result["name"] in theirs
    ]
    here = {result["name"] for result in report["results"]}
    versions = (report["versions"]["everloop"], other["versions"]["everloop"])
    return {
        "model": other["model"],
        "date": other["date"],
        "everloop": versions[1],
        "same_version": versions[0] == versions[1],
        "results": compared,
        "only_here": sorted(here - theirs.keys()),
        "only_there": sorted(theirs.keys() - here),
    }


def _metrics(mine: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, ours in mine["metrics"].items():
        if name not in other["metrics"]:
            continue
        theirs = other["metrics"][name]
        value = ours["value"] - theirs["value"]
        if name in mine["draws"]:
            drawn = unpacked(mine["draws"][name]) - unpacked(other["draws"][name])
            above = spread(value, drawn)
        else:
            above = Estimate(value=value, low=value, high=value)
        higher = mine["higher_is_better"][name]
        surely = name in mine["draws"] and (above.low > 0 or above.high < 0)
        found[name] = {
            "ours": ours,
            "theirs": theirs,
            "above": asdict(above),
            "better": (above.value > 0) == higher if surely else None,
            "percent": mine["percent"][name],
            "higher_is_better": higher,
        }
    return found

"""On what machine, and with what versions, numbers were made."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "numpy", "tokenizers", "scikit-learn", "sacrebleu")


def machine() -> dict[str, str | int]:
    """Processor, cores that this process may use, system."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text("utf-8", errors="replace").split("\n"):
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": name, "cores": usable or 1, "system": platform.system()}


def versions() -> dict[str, str]:
    """Of Python and of the libraries that shape the numbers; "missing" where one is not there."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found

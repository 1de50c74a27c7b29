"""The machine and the versions behind the numbers."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import everloop

from .environment import Environment


def machine() -> dict[str, Any]:
    """Processor, cores that may be used, memory, system; and how busy it is."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory GiB": round(memory, 1),
        "instructions": _instructions(),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "load before": round(os.getloadavg()[0], 2),
    }


def versions(environment: Environment | None) -> dict[str, str]:
    """Of everything that was measured or that computed."""
    import torch

    found = {
        "everloop": everloop.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    commit = _commit()
    if commit:
        found["commit"] = commit
    return found | (environment.versions() if environment else {})


def limits() -> dict[str, dict[str, float]]:
    """What the machine can do at most, measured in a process of its own."""
    script = Path(__file__).with_name("limits.py")
    done = subprocess.run([sys.executable, str(script)], check=True, capture_output=True)
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


def best(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Each limit with the number of threads that reached most."""
    return {name: max(by_threads.values()) for name, by_threads in found.items()}


def _processor() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _instructions() -> list[str]:
    wanted = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8")
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("flags"):
            return [name for name in wanted if name in line.split()]
    return []


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _commit() -> str:
    root = Path(__file__).parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

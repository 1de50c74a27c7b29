"""The official OpenAI clients that users have, each in a folder of its own.

`python -m tests.sdk` puts the two old lines into `.cache/sdk/VERSION` with pip; the newest one is
in the environment already. Tests run a script with one of them by `run`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "sdk"
OLD = ("0.28.1", "2.54.0")
NEW = "3.54.0"


def installed(version: str) -> bool:
    return version == NEW or (CACHE / version / "done").is_file()


def install(version: str) -> None:
    """Idempotent. A broken earlier attempt is repeated."""
    if installed(version):
        return
    target = CACHE / version
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade"]
    subprocess.run(
        [*command, "--disable-pip-version-check", "--target", str(target), f"openai=={version}"],
        check=True,
    )
    (target / "done").touch()


def run(version: str, script: str, *, url: str, key: str) -> str:
    """Runs a script with this client, pointed at a server; returns what it prints.

    It runs as a user's does: the server is told by environment variables only.
    """
    path = [str(CACHE / version)] if version in OLD else []
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONIOENCODING": "utf-8",
        "OPENAI_API_KEY": key,
        "OPENAI_API_BASE": url,
        "OPENAI_BASE_URL": url,
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment,
        timeout=100,
    )
    assert done.returncode == 0, f"openai {version}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def main() -> None:
    for version in OLD:
        install(version)


if __name__ == "__main__":
    main()

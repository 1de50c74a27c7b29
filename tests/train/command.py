"""`everloop` in processes of its own: alone, several under torchrun, or one that dies."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any


def command(*arguments: str | Path, processes: int = 1) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    start = [sys.executable, *(launcher if processes > 1 else [])]
    return [*start, "-m", "everloop", *map(str, arguments)]


def everloop(*arguments: str | Path, processes: int = 1) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(*arguments, processes=processes), capture_output=True, text=True, env=env
    )


def forked(*arguments: str | Path, log: Path, **what: Any) -> ForkServerProcess:
    """Starts `everloop` in a process forked from one that has imported it: quick to start.

    `die_at`: SIGKILL before its nth operation on the file system; `largest_file`: bytes that a
    file may have before the disk counts as full.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["everloop.cli.training", "everloop.train.run"])
    process = context.Process(target=_main, args=(list(map(str, arguments)), log, what))
    process.start()
    return process


_WRITING = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.chmod")


def _main(arguments: list[str], log: Path, what: dict[str, Any]) -> None:
    from everloop.cli.main import main

    sys.stderr = log.open("w", encoding="utf-8")
    sys.argv = ["everloop", *arguments]
    if "die_at" in what:
        left = what["die_at"]

        def hook(event: str, args: tuple[Any, ...]) -> None:
            nonlocal left
            writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax")
            if event in _WRITING or writes:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
    if "largest_file" in what:
        resource.setrlimit(resource.RLIMIT_FSIZE, (what["largest_file"], resource.RLIM_INFINITY))
    try:
        main()
    finally:
        sys.stderr.flush()

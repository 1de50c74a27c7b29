"""The peers, installed beside Everloop and never into it: a virtual environment of their own.

    python bench/peers/environment.py          # install what is missing, print what is there

llama.cpp comes with llama-cpp-python's source package and is compiled for this machine's own
instructions, once, for its Python package and its server alike. OpenVINO GenAI is installed as its
makers built it. All of it lives in EVERLOOP_BENCH_HOME (default: the user's cache), outside the
checkout, and is removed by deleting that folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LLAMA = "llama-cpp-python==0.3.36"
OPENVINO = "openvino-genai==2026.4.1.0"
GGUF = "gguf==0.19.0"

BUILD = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=ON",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
)
"""llama.cpp at its best on this machine; without its web page, tests and TLS."""

TARGETS = ("llama", "llama-server", "llama-bench")


class Unavailable(Exception):
    """A peer can't be installed here; the message says why and what to do."""


def home() -> Path:
    """Where the peers, their weights and the logs are."""
    chosen = os.environ.get("EVERLOOP_BENCH_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "everloop" / "bench-peers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """An installed environment of the peers."""

    home: Path

    @property
    def python(self) -> Path:
        return self.home / "venv" / "bin" / "python"

    @property
    def binaries(self) -> Path:
        """llama.cpp's libraries and programs."""
        return self.home / "llama.cpp"

    @property
    def server(self) -> Path:
        return self.binaries / "llama-server"

    @property
    def variables(self) -> dict[str, str]:
        """What a process in this environment needs to find llama.cpp's libraries."""
        return {**os.environ, "LLAMA_CPP_LIB_PATH": str(self.binaries)}

    def versions(self) -> dict[str, str]:
        """Names and versions of the peers, for the report."""
        found = json.loads(
            subprocess.run(
                [
                    self.python,
                    "-m",
                    "pip",
                    "list",
                    "--format",
                    "json",
                    "--disable-pip-version-check",
                ],
                check=True,
                capture_output=True,
            ).stdout
        )
        return {
            package["name"].replace("_", "-"): package["version"]
            for package in found
            if package["name"].replace("_", "-") in ("llama-cpp-python", "openvino-genai")
        }


def ensure(where: Path | None = None) -> Environment:
    """The environment, installed first where something is missing (a quarter of an hour on two
    cores, nearly all of it for compiling llama.cpp). Raises Unavailable."""
    environment = Environment(home=where or home())
    environment.home.mkdir(parents=True, exist_ok=True)
    stamp = environment.home / "installed.json"
    wanted = {"packages": [LLAMA, OPENVINO, GGUF], "build": list(BUILD)}
    if stamp.is_file() and json.loads(stamp.read_text()) == wanted:
        return environment
    log = environment.home / "install.log"
    print(f"Installing the peers into {environment.home} (log: {log})", file=sys.stderr)
    log.write_text("")
    if not environment.python.exists():
        _run([sys.executable, "-m", "venv", str(environment.home / "venv")], log)
    _pip(environment, log, "install", OPENVINO, GGUF)
    _install_llama(environment, log)
    stamp.write_text(json.dumps(wanted, indent=1) + "\n")
    return environment


def _install_llama(environment: Environment, log: Path) -> None:
    work = environment.home / "build"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    _pip(environment, log, "download", "--no-deps", "--no-binary", "llama-cpp-python",
         "--dest", str(work), LLAMA)  # fmt: skip
    (archive,) = work.glob("*.tar.gz")
    with tarfile.open(archive) as package:
        package.extractall(work, filter="data")
    (source,) = (p for p in work.iterdir() if p.is_dir())
    cmake = _tool(environment, log, "cmake")
    ninja = _tool(environment, log, "ninja")
    compiled = work / "compiled"
    print("Compiling llama.cpp for this machine: some ten minutes", file=sys.stderr)
    _run(
        [cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", *BUILD, "-S",
         str(source / "vendor" / "llama.cpp"), "-B", str(compiled)],
        log,
    )  # fmt: skip
    jobs = str(len(os.sched_getaffinity(0)))
    _run([cmake, "--build", str(compiled), "-j", jobs, "--target", *TARGETS], log)
    shutil.rmtree(environment.binaries, ignore_errors=True)
    shutil.move(compiled / "bin", environment.binaries)
    # The Python package takes the same libraries: nothing is compiled twice.
    _pip(
        environment, log, "install", "--no-binary", "llama-cpp-python", str(archive),
        CMAKE_ARGS="-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF",
    )  # fmt: skip
    shutil.rmtree(work)


def _tool(environment: Environment, log: Path, name: str) -> str:
    """cmake or ninja: the machine's own, else from the package index."""
    found = shutil.which(name)
    if found is None:
        _pip(environment, log, "install", name)
        found = str(environment.python.with_name(name))
    return found


def _pip(environment: Environment, log: Path, *arguments: str, **variables: str) -> None:
    command = [str(environment.python), "-m", "pip", "--disable-pip-version-check", *arguments]
    _run(command, log, variables)


def _run(command: Sequence[str], log: Path, variables: dict[str, str] | None = None) -> None:
    with log.open("ab") as out:
        done = subprocess.run(
            command, stdout=out, stderr=out, env={**os.environ, **(variables or {})}
        )
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
        raise Unavailable(
            f"{Path(command[0]).name} failed while the peers were installed; the end of {log}:\n"
            f"{tail}\nA C++ compiler and access to the package index are needed. "
            "`--sides everloop` measures without peers."
        )


if __name__ == "__main__":
    try:
        print(json.dumps(ensure().versions(), indent=1))
    except Unavailable as error:
        sys.exit(str(error))

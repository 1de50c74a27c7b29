"""Compiles the native library with the compiler on this machine.

    python native/build.py [--check]

Writes src/everloop/engine/native/_native.so; needs g++ or clang++ (the one in CXX first) and
nothing else. The package's build runs it too; without a compiler the engine uses PyTorch.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "src" / "everloop" / "engine" / "native" / "_native.so"

COMMON = ["-std=c++20", "-O3", "-fPIC", "-Wall", "-Wextra", "-pthread"]
# Fused multiply-adds only where the source says so: two ways to the same number give equal bits.
COMMON += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]

X86 = {
    "avx512bf16": "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512bf16 -mavx2 "
    "-mfma -mf16c -mprefer-vector-width=512",
    "avx512vnni": "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx2 -mfma -mf16c "
    "-mprefer-vector-width=512",
    "avx2": "-mavx2 -mfma -mf16c",
    "portable": "",
}


def instruction_sets() -> dict[str, str]:
    """The sets that are compiled for this kind of processor, with their flags."""
    return X86 if platform.machine() in ("x86_64", "AMD64") else {"portable": ""}


def sources() -> list[Path]:
    return sorted([*HERE.glob("*.cpp"), *HERE.glob("*.h"), HERE / "build.py"])


def fingerprint() -> str:
    """Changes with every source and flag."""
    digest = hashlib.sha256(platform.machine().encode())
    for path in sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def compiler() -> str | None:
    """A C++ compiler's path, or None."""
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        if name and (found := shutil.which(name)):
            return found
    return None


def is_current(target: Path = TARGET) -> bool:
    """Whether the library there was compiled from these sources."""
    mark = fingerprint().encode()
    return target.exists() and mark in target.read_bytes()


def build(target: Path = TARGET) -> Path:
    """Compiles the library if it is not current. RuntimeError, with the compiler's words, if it
    can't be compiled."""
    if is_current(target):
        return target
    cxx = compiler()
    if cxx is None:
        raise RuntimeError("no C++ compiler found (g++ or clang++; CXX names another)")
    with tempfile.TemporaryDirectory() as folder:
        jobs = []
        for source in sorted(HERE.glob("*.cpp")):
            if source.name == "kernels.cpp":
                for name, flags in instruction_sets().items():
                    extra = [*flags.split(), f"-DEVERLOOP_ISA={name}"]
                    jobs.append((source, Path(folder) / f"kernels_{name}.o", extra))
            else:
                extra = [f'-DEVERLOOP_FINGERPRINT="{fingerprint()}"']
                jobs.append((source, Path(folder) / f"{source.stem}.o", extra))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(
                pool.map(
                    lambda job: _run([cxx, *COMMON, *job[2], "-c", str(job[0]), "-o", str(job[1])]),
                    jobs,
                )
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        # A library that a running engine has loaded must not change under it: a new file, renamed.
        fresh = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            _run([cxx, "-shared", "-pthread", *(str(o) for _, o, _ in jobs), "-o", str(fresh)])
            os.replace(fresh, target)
        finally:
            fresh.unlink(missing_ok=True)
    return target


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr.strip()}")


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if is_current() else "The native library is missing or older than its sources.")
    try:
        print(build())
    except RuntimeError as error:
        sys.exit(f"The native library was not built: {error}")

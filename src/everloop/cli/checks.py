"""What `everloop doctor` looks at. Each check says what it found and, if need be, the repair."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from everloop.errors import EverloopError
from everloop.settings import Settings, unknown_environment

HUB = "https://huggingface.co"
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding. Only a failure keeps the product from working."""

    name: str
    status: Literal["ok", "warning", "failure"]
    found: str
    repair: str = ""


def run(settings: Settings, *, network: bool = False) -> Iterator[Check]:
    """Every check in turn. Talks to other machines only with `network`."""
    checks: list[Callable[[Settings], Check]] = [
        python,
        torch,
        processor,
        kernels,
        threads,
        memory,
        disk,
        sqlite,
        home,
        database,
        secret,
        environment,
        model,
        port,
    ]
    checks.append(hub_answers if network else hub)
    for check in checks:
        yield check(settings)


def python(settings: Settings) -> Check:
    return _ok("python", f"{platform.python_version()} at {sys.executable}")


def torch(settings: Settings) -> Check:
    try:
        import torch
    except (ImportError, OSError) as error:
        return _failure("torch", f"can't be loaded: {error}", "pip install 'torch~=2.13.0'")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU only"
    capability = torch.backends.cpu.get_cpu_capability()
    return _ok("torch", f"{torch.__version__}, {device}, kernels for {capability}")


def processor(settings: Settings) -> Check:
    text = _read("/proc/cpuinfo")
    name = re.search(r"^model name\s*: (.*)", text, re.MULTILINE)
    flags = set(re.findall(r"\b(avx2|avx512f|avx512_vnni|avx_vnni|amx_int8|amx_bf16)\b", text))
    found = f"{name[1] if name else platform.processor() or platform.machine()}, " + (
        " ".join(sorted(flags)) or "no vector extensions seen"
    )
    if text and platform.machine() == "x86_64" and "avx2" not in flags:
        return _warning("processor", found, "It will work, slowly: use a CPU with AVX2 or newer.")
    return _ok("processor", found)


def kernels(settings: Settings) -> Check:
    from everloop.engine.native import library
    from everloop.engine.native.loading import choose_bits

    try:
        bits, note = choose_bits(settings.quantization)
    except EverloopError as error:
        return _failure("kernels", error.message, "python native/build.py")
    if settings.device != "cpu" and Path("/dev/nvidiactl").exists():
        return _ok("kernels", "bfloat16 weights on the GPU for large models; else int8 or float32")
    if note:
        return _warning("kernels", note, "python native/build.py")
    if not bits:
        return _ok("kernels", "float32 weights through PyTorch, as quantization=none says")
    return _ok("kernels", f"int{bits} weights, compiled for {library.load().isa}")


def threads(settings: Settings) -> Check:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = re.match(r"(\d+) (\d+)", _read("/sys/fs/cgroup/cpu.max"))
    limit = int(quota[1]) / int(quota[2]) if quota else float(cores)
    wanted = settings.threads or cores
    found = f"{wanted} for the engine, {cores} cores" + (
        f", {limit:g} allowed by the container" if limit < cores else ""
    )
    if wanted > min(cores, limit):
        return _warning(
            "threads", found, f"Set EVERLOOP_THREADS={max(1, int(min(cores, limit)))}: more wait."
        )
    return _ok("threads", found)


def memory(settings: Settings) -> Check:
    found = re.search(r"MemAvailable:\s*(\d+) kB", _read("/proc/meminfo"))
    if found is None:
        return _ok("memory", "not told by this system")
    free = int(found[1]) * 1024
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit.strip().isdigit() and used.strip().isdigit():
        free = min(free, int(limit) - int(used))
    if free < GIB:
        return _warning("memory", f"{free / GIB:.1f} GiB free", "Free some: a server wants 1 GiB.")
    return _ok("memory", f"{free / GIB:.1f} GiB free")


def disk(settings: Settings) -> Check:
    folder = settings.home
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free for {settings.home}"
    if free < 0.2 * GIB:
        return _failure("disk", found, "Free some, or move the home with EVERLOOP_HOME.")
    return _ok("disk", found)


def sqlite(settings: Settings) -> Check:
    from everloop.store.database import loses_rows

    version = sqlite3.sqlite_version
    if loses_rows(version):
        return _ok(
            "sqlite",
            f"{version} has the WAL-reset defect; Everloop writes one at a time, which avoids it "
            "(so should you: don't write to everloop.db with other programs)",
        )
    return _ok("sqlite", version)


def home(settings: Settings) -> Check:
    from everloop.store.home import serving_pid

    if not settings.home.exists():
        return _ok("home", f"{settings.home}, made at the first start")
    if not os.access(settings.home, os.R_OK | os.W_OK | os.X_OK):
        return _failure(
            "home",
            f"{settings.home} isn't writable for this user",
            "Repair its owner, or set --home.",
        )
    pid = serving_pid(settings.home)
    return _ok("home", f"{settings.home}, " + (f"served by pid {pid}" if pid else "not served now"))


def database(settings: Settings) -> Check:
    from sqlalchemy import text

    from everloop.store.database import DATABASE_FILE, Database, head

    if not (settings.home / DATABASE_FILE).exists():
        return _ok("database", "made at the first start")
    try:
        db = Database(settings.home)
        try:
            with db.read() as connection:
                verdict = connection.execute(text("PRAGMA quick_check")).scalar()
        finally:
            db.close()
    except EverloopError as error:
        return _failure("database", str(error), "See the message.")
    if verdict != "ok":
        return _failure("database", str(verdict), "Restore everloop.db from a backup.")
    return _ok("database", f"sound, schema {head()}")


def secret(settings: Settings) -> Check:
    from everloop.store.keys import SECRET_FILE

    path = settings.home / SECRET_FILE
    if not path.exists():
        return _ok("secret", "made with the first key")
    if mode := path.stat().st_mode & 0o077:
        return _failure("secret", f"{path} is open to others ({mode:03o})", f"chmod 600 {path}")
    return _ok("secret", "private")


def environment(settings: Settings) -> Check:
    unknown = unknown_environment()
    if not unknown:
        return _ok("settings", "every EVERLOOP_ variable is known")
    near = [f"{name} (did you mean {close}?)" if close else name for name, close in unknown.items()]
    return _warning("settings", "without effect: " + ", ".join(near), "Rename or unset them.")


def model(settings: Settings) -> Check:
    from everloop.store import files, registry
    from everloop.store.database import DATABASE_FILE, Database

    if settings.remote_url:
        return _ok("model", f"{settings.remote_model or 'any'} at {settings.remote_url}")
    embedded = registry.embedded_models()
    for version in embedded.values():
        recorded = files.recorded_sums(version.path)
        if recorded is not None and recorded != files.folder_sums(version.path):
            return _failure(
                "model", f"{version.path} was changed since its release", "Install Everloop again."
            )
    found = embedded.get(settings.model)
    if (settings.home / DATABASE_FILE).exists():
        db = Database(settings.home)
        try:
            found = registry.Registry(db, default_model=settings.model).resolve(settings.model)
        finally:
            db.close()
    if found is None:
        return _failure(
            "model",
            f"the default model `{settings.model}` isn't there",
            "Choose one of `everloop models list` with --model, or add it: `everloop pull`.",
        )
    return _ok("model", f"{found.id}, sha256 {found.sha256[:16]}…")


def port(settings: Settings) -> Check:
    from everloop.store.home import serving_pid

    where = f"{settings.host}:{settings.port}"
    if (failure := port_taken(settings.host, settings.port)) is None:
        return _ok("port", f"{where} is free")
    if serving_pid(settings.home):
        return _ok("port", f"{where} is taken, and this home is being served")
    return _failure("port", f"{where}: {failure}", "Choose another: --port, or EVERLOOP_PORT.")


def hub(settings: Settings) -> Check:
    endpoint = os.environ.get("HF_ENDPOINT") or HUB
    offline = ", offline (HF_HUB_OFFLINE)" if os.environ.get("HF_HUB_OFFLINE") else ""
    return _ok("hub", f"{endpoint}{offline}, not asked; --network does")


def hub_answers(settings: Settings) -> Check:
    import httpx2

    endpoint = os.environ.get("HF_ENDPOINT") or HUB
    try:
        answer = httpx2.get(f"{endpoint}/api/models?limit=1", timeout=10, follow_redirects=True)
        answer.raise_for_status()
    except httpx2.HTTPError as error:
        return _warning(
            "hub",
            f"{endpoint} doesn't answer: {error}",
            "Set HF_ENDPOINT to a mirror, or HTTPS_PROXY; only `everloop pull` needs it.",
        )
    return _ok("hub", f"{endpoint} answers")


def port_taken(host: str, port: int) -> str | None:
    """Why nobody can listen there, or None."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _ok(name: str, found: str) -> Check:
    return Check(name=name, status="ok", found=found)


def _warning(name: str, found: str, repair: str) -> Check:
    return Check(name=name, status="warning", found=found, repair=repair)


def _failure(name: str, found: str, repair: str) -> Check:
    return Check(name=name, status="failure", found=found, repair=repair)

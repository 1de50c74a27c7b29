"""The one table of settings. Flags, environment variables, files, docs and tests all read it.

A value comes from the first of: flag, environment, `everloop.toml` in the working directory,
`config.toml` in the home, default. `Settings.origin(name)` says which.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everloop.errors import InvalidRequest
from everloop.setting import Spec

PROJECT_FILE = "everloop.toml"
USER_FILE = "config.toml"
LOG_LEVELS = ("debug", "info", "warning", "error")


def _setting(default: Any, kind: str, group: str, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"kind": kind, "group": group, "help": help, **more})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting with its value. Made by `load`, or directly in a test."""

    host: str = _setting(
        "127.0.0.1", "text", "server", "Address to listen on; 0.0.0.0 is every network."
    )
    port: int = _setting(
        8400, "int", "server", "Port to listen on.", minimum=1, maximum=65535, also=("PORT",)
    )
    home: Path = _setting(
        Path("~/.everloop"),
        "path",
        "state",
        "Folder with all state: database, keys, models. Not read from the user file.",
    )
    data: Path | None = _setting(
        None, "path", "state", "Folder that data recipes find their files in."
    )
    api_key: str | None = _setting(
        None, "secret", "server", "Becomes the first key when the home is new; any text will do."
    )
    model: str = _setting(
        "everloop-small", "text", "models", "Default model; the alias `default` points to it."
    )
    remote_url: str | None = _setting(
        None,
        "url",
        "models",
        "Base URL of an OpenAI-compatible server (such as vLLM) that makes the tokens instead.",
    )
    remote_key: str | None = _setting(None, "secret", "models", "Key for `remote_url`.")
    remote_model: str | None = _setting(
        None, "text", "models", "Model to ask `remote_url` for; without it, the name called."
    )
    device: str = _setting(
        "auto",
        "choice",
        "engine",
        "Where models run: cpu, cuda, or auto: a GPU where there is one and the model is large.",
        choices=("auto", "cpu", "cuda"),
    )
    quantization: str = _setting(
        "auto",
        "choice",
        "engine",
        "Weights in int8 or int4, or none (float32); auto: int8 where the compiled kernels run.",
        choices=("auto", "none", "int8", "int4"),
    )
    threads: int = _setting(
        0,
        "int",
        "engine",
        "CPU threads that the engine computes with at most; 0: as many as there are cores.",
        minimum=0,
    )
    max_running: int = _setting(
        32, "int", "engine", "Requests computed together in one step.", minimum=1, maximum=4096
    )
    kv_tokens: int = _setting(
        0,
        "int",
        "engine",
        "Tokens that the key-value cache holds; 0: derived from the model.",
        minimum=0,
    )
    kv_bits: int = _setting(
        16,
        "int",
        "engine",
        "Bits of a number in the key-value cache; 8 takes half the memory and is less exact.",
        choices=("16", "8"),
    )
    prefill_chunk: int = _setting(
        512, "int", "engine", "Prompt tokens computed per step, at most.", minimum=16, maximum=65536
    )
    drafting: str = _setting(
        "on",
        "choice",
        "engine",
        "Whether likely tokens are drafted and verified together, where that is faster.",
        choices=("on", "off"),
    )
    max_queue: int = _setting(
        256, "int", "engine", "Requests that may wait; the next one gets a 429.", minimum=0
    )
    max_body_bytes: int = _setting(
        10 * 2**20, "bytes", "limits", "Largest request body.", minimum=1024
    )
    max_header_bytes: int = _setting(
        16 * 2**10, "bytes", "limits", "Largest request head (line and headers).", minimum=1024
    )
    receive_timeout: float = _setting(
        20.0, "seconds", "limits", "Time to send a whole request.", minimum=0.1
    )
    send_timeout: float = _setting(
        60.0, "seconds", "limits", "Time a client may leave an answer unread.", minimum=0.1
    )
    shutdown_grace: float = _setting(
        30.0, "seconds", "server", "Time that running answers get to finish at a stop.", minimum=0
    )
    max_connections: int = _setting(
        1024, "int", "limits", "Open connections; the next one gets a 503.", minimum=1
    )
    max_requests_per_key: int = _setting(
        256,
        "int",
        "limits",
        "Requests one key may have running; the next one gets a 429.",
        minimum=1,
    )
    max_n: int = _setting(
        8, "int", "limits", "Largest `n` and `best_of` of one request.", minimum=1, maximum=128
    )
    max_prompts: int = _setting(
        128, "int", "limits", "Prompts in one completion request.", minimum=1, maximum=2048
    )
    max_messages: int = _setting(2048, "int", "limits", "Messages in one chat request.", minimum=1)
    max_stop: int = _setting(
        4, "int", "limits", "Stop strings of one request.", minimum=1, maximum=64
    )
    log_level: str = _setting(
        "info", "choice", "server", "Least severe message that is logged.", choices=LOG_LEVELS
    )
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for spec in SPECS.values():
            spec.check(getattr(self, spec.name), self.origin(spec.name))
        object.__setattr__(self, "home", Path(self.home).expanduser().absolute())

    def origin(self, name: str) -> str:
        """Where the value of `name` came from, in words."""
        return self.origins.get(name, "default")


def _specs() -> dict[str, Spec]:
    rows = {}
    for item in dataclasses.fields(Settings):
        if not item.metadata:
            continue
        meta = dict(item.metadata)
        env = ("EVERLOOP_" + item.name.upper(), *meta.pop("also", ()))
        rows[item.name] = Spec(name=item.name, default=item.default, env=env, **meta)
    return rows


SPECS: Mapping[str, Spec] = _specs()


def load(overrides: Mapping[str, object] | None = None) -> Settings:
    """Resolves every setting: flag > environment > project file > user file > default.

    `overrides` are flags; None means "not given". Raises InvalidRequest naming the setting, its
    value, where it came from and the repair; an unknown key in a file is an error too.
    """
    flags = {name: value for name, value in (overrides or {}).items() if value is not None}
    for name in flags:
        if name not in SPECS:
            raise _unknown(name, "a flag")
    project = _read_file(Path.cwd() / PROJECT_FILE)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}

    def resolve(spec: Spec, *files: _File) -> None:
        raw, origin, folder = _first(spec, flags, files)
        if origin is None:
            value = spec.default
        else:
            value = spec.parse(raw, origin, folder)
            origins[spec.name] = origin
        values[spec.name] = value

    resolve(SPECS["home"], project)
    home = Path(values["home"]).expanduser()
    user = _read_file(home / USER_FILE, of="home")
    if "home" in user.values:
        raise InvalidRequest(
            f"`home` can't be set in {user.path}, which lies in the home itself: "
            f"set EVERLOOP_HOME, --home or `home` in {PROJECT_FILE}.",
            param="home",
        )
    for spec in SPECS.values():
        if spec.name != "home":
            resolve(spec, project, user)
    return Settings(**values, origins=origins)


def unknown_environment() -> dict[str, str]:
    """EVERLOOP_… variables that no setting reads, each with the nearest name that one does."""
    known = {name for spec in SPECS.values() for name in spec.env}
    return {
        name: next(iter(difflib.get_close_matches(name, known, n=1)), "")
        for name in sorted(os.environ)
        if name.startswith("EVERLOOP_") and name not in known
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    path: Path
    values: Mapping[str, Any]


def _read_file(path: Path, of: str | None = None) -> _File:
    """The settings in `path`, none where there is no such file; `of` is the setting to blame."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return _File(path=path, values={})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} is not valid TOML: {error}. Repair or remove it.") from None
    except OSError as error:
        raise InvalidRequest(f"{path} can't be read: {error.strerror}.", param=of) from None
    for name in values:
        if name not in SPECS:
            raise _unknown(name, str(path))
    return _File(path=path, values=values)


def _unknown(name: str, where: str) -> InvalidRequest:
    near = difflib.get_close_matches(name.replace("-", "_"), SPECS, n=1)
    hint = f"did you mean `{near[0]}`?" if near else "`everloop config show` lists all of them."
    return InvalidRequest(f"Unknown setting `{name}` in {where}: {hint}", param=name)


def _first(
    spec: Spec, flags: Mapping[str, object], files: tuple[_File, ...]
) -> tuple[object, str | None, Path]:
    if spec.name in flags:
        return flags[spec.name], f"flag {spec.flag}", Path.cwd()
    for name in spec.env:
        if os.environ.get(name):  # an empty variable counts as unset, as in most programs
            return os.environ[name], f"environment {name}", Path.cwd()
    for file in files:
        if spec.name in file.values:
            return file.values[spec.name], f"file {file.path}", file.path.parent
    return None, None, Path.cwd()

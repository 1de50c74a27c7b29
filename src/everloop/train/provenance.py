"""How a model came to be: run.json, written into the model's directory."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import torch

import everloop
from everloop.model.transformer import Transformer
from everloop.train.plan import Plan
from everloop.train.trainer import Outcome


def record(
    *,
    kind: str,
    model: Transformer,
    plan: Plan,
    outcome: Outcome,
    data_dir: Path,
    base: Path | None,
    bf16: bool,
) -> dict[str, Any]:
    """Everything to reproduce and to judge a run; `base` is the tuned model's directory, whose
    own record is kept inside."""
    config = model.config
    manifest = json.loads((data_dir / "manifest.json").read_text(encoding="utf-8"))
    tokens = outcome.steps * plan.batch_tokens
    value: dict[str, Any] = {
        "kind": kind,
        "everloop": everloop.__version__,
        "source_sha256": source_hash(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "parameters": config.parameters,
        "matmul_parameters": config.matmul_parameters,
        "tokens": tokens,
        "targets": outcome.targets,
        "flops": tokens * plan.cost * config.flops_per_token(plan.sequence_length // 2),
        "seconds": round(outcome.seconds, 1),
        "final_loss": outcome.final_loss,
        "validation": outcome.validation,
        "plan": plan.to_json(),
        "precision": "bf16 autocast" if bf16 else "fp32",
        "machine": machine(),
        "data": manifest,
        "data_fingerprint": fingerprint(data_dir),
    }
    if base is not None and (base / "run.json").is_file():
        value["base"] = json.loads((base / "run.json").read_text(encoding="utf-8"))
    return value


def fresh_seed(base: Path | None, data_dir: Path) -> int:
    """A seed that no run behind the model in `base` has read this data with: with the same one,
    training on would begin with what was read first, again."""
    data, seeds = fingerprint(data_dir), [-1]
    run: Any = None
    if base is not None and (base / "run.json").is_file():
        run = json.loads((base / "run.json").read_text(encoding="utf-8"))
    while run:
        if run.get("data_fingerprint") == data:
            seeds.append(int(run["plan"]["seed"]))
        run = run.get("base")
    return max(seeds) + 1


def fingerprint(data_dir: Path) -> str:
    """SHA-256 of the packed data's manifest, which has the hashes of all its parts."""
    return hashlib.sha256((data_dir / "manifest.json").read_bytes()).hexdigest()


def source_hash() -> str:
    """SHA-256 over this package's Python files, names and contents."""
    root = Path(everloop.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def machine() -> dict[str, Any]:
    """Processor, threads, accelerator and versions."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").split("\n"):
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return {
        "cpu": name,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
    }

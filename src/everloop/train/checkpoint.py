"""Training state on disk: a directory per checkpoint that appears whole or not at all.

`RUN/checkpoints/step-00000100/` holds `model/` (a complete Hugging Face directory, loadable on its
own), `optimizer.safetensors` and `state.json`. Resuming from it equals never having stopped.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from everloop.errors import InvalidRequest
from everloop.model import checkpoint as model_files
from everloop.model.atomic import new_directory
from everloop.model.safetensors import load_tensors, save_tensors
from everloop.model.transformer import Transformer
from everloop.train.distributed import Processes, placed_like, whole
from everloop.train.loader import Cursor
from everloop.train.optimizer import Optimizer

KEEP = 2
"""Checkpoints that stay: the last, and the one before in case the disk lied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything but tensors that a run needs to go on."""

    step: int
    """Steps done."""
    cursor: Cursor
    plan: dict[str, Any]
    data: str
    """Fingerprint of the packed data: a run goes on only with the data it began with."""
    seconds: float
    """Time trained so far."""
    targets: int
    """Targets learnt from so far."""


def save(
    run: Path,
    state: State,
    model: Transformer,
    optimizer: Optimizer,
    *,
    tokenizer_dir: Path,
    processes: Processes,
) -> None:
    """Writes a checkpoint and removes old ones. Every process must call it; one writes."""
    weights = {name: whole(t).cpu() for name, t in model.state_dict().items()}
    moments = {name: whole(t).cpu().contiguous() for name, t in optimizer.tensors().items()}
    if processes.first:
        target = directory(run, state.step)
        # A run that goes on and has nothing to do has its checkpoint already.
        if not target.exists():
            with new_directory(target) as work:
                write_model(work / "model", model, weights, tokenizer_dir=tokenizer_dir)
                save_tensors(work / "optimizer.safetensors", moments, {"format": "pt"})
                text = json.dumps(asdict(state), indent=2) + "\n"
                (work / "state.json").write_text(text, encoding="utf-8")
        for old in found(run)[:-KEEP]:
            # Renamed first: a process killed meanwhile must not leave half of one.
            shutil.rmtree(old.rename(old.with_name(f".{old.name}.partial")))
    processes.barrier()


def write_model(
    target: Path,
    model: Transformer,
    weights: dict[str, torch.Tensor],
    *,
    tokenizer_dir: Path,
    dtype: torch.dtype | None = None,
) -> None:
    """A model directory, or an adapter's where the model has LoRA layers."""
    if has_adapters(model):
        from everloop.model import lora

        lora.save(target, model, state=weights, tokenizer_dir=tokenizer_dir)
        return
    with torch.device("meta"):
        plain = Transformer(model.config)
    plain.load_state_dict(weights, assign=True)
    if model.config.tie_word_embeddings:
        plain.lm_head.weight = plain.model.embed_tokens.weight
    model_files.save(target, plain, model.config, tokenizer_dir=tokenizer_dir, dtype=dtype)


def has_adapters(model: Transformer) -> bool:
    """Whether LoRA layers are being trained, and only they are saved."""
    return any("lora_" in name for name, _ in model.named_parameters())


def found(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first. Half-written ones have another name."""
    return sorted((run / "checkpoints").glob("step-????????"))


def directory(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return run / "checkpoints" / f"step-{step:08d}"


def read_state(checkpoint: Path) -> State:
    """The state of one checkpoint."""
    path = checkpoint / "state.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return State(**{**value, "cursor": Cursor(**value["cursor"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidRequest(
            f"{checkpoint} can't be resumed ({error}): remove it to go on from the one before."
        ) from None


def restore(checkpoint: Path, model: Transformer, optimizer: Optimizer) -> None:
    """Puts weights and optimizer state back in place, bit for bit."""
    state = model.state_dict()
    if has_adapters(model):
        from everloop.model import lora

        saved = lora.tensors(checkpoint / "model", model)
    else:
        saved = model_files.load(checkpoint / "model", dtype=None)[1].state_dict()
    with torch.no_grad():
        for name, value in saved.items():
            state[name].copy_(placed_like(value, state[name]))
    parameters = dict(model.named_parameters())
    moments = load_tensors(checkpoint / "optimizer.safetensors")
    optimizer.load(
        {k: placed_like(v.clone(), parameters[k.split("/")[0]]) for k, v in moments.items()}
    )

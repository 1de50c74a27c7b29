"""The same weights for every side: a model folder for Everloop, GGUF files for the peers.

`0.6b` has the shape of Qwen3-0.6B and random weights: there only speed is measured, and that does
not depend on them. `small` has the default model's own weights; its context is made longer and its
tokenizer replaced by one of words, since all prompts are token ids. `bare` has next to no weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import everloop
from everloop.model import checkpoint
from everloop.model.config import ModelConfig
from everloop.model.transformer import Transformer

from .environment import Environment, Unavailable
from .words import write_tokenizer

CONTEXT = 8192
"""Tokens: more than any prompt here, in both models."""

QWEN3_06B = ModelConfig(
    model_type="qwen3",
    vocab_size=151_936,
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    max_position_embeddings=CONTEXT,
    rope_theta=1_000_000.0,
    eos_token_ids=(2,),
    pad_token_id=0,
    qk_norm=True,
    tie_word_embeddings=True,
)

BARE = dataclasses.replace(
    QWEN3_06B,
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=1,
    num_key_value_heads=1,
    head_dim=64,
)
"""Nearly no weights, and the same tokenizer: what a process takes without the model."""

EMBEDDED = Path(everloop.__file__).parent / "models" / "everloop-small"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """One model in all its files."""

    folder: Path
    """Hugging Face layout, bfloat16."""
    config: ModelConfig
    files: dict[str, Path]
    """GGUF: Q8_0 and Q4_0, BF16 for the small model; empty without peers."""


def prepare(name: str, home: Path, environment: Environment | None) -> Weights:
    """The files of a model, written where they are missing; without an environment only Everloop's.
    `0.6b` takes some 2.3 GB on disk."""
    folder, kinds = _folder(name, home)
    if environment is None or not kinds:
        return Weights(folder=folder, config=ModelConfig.load(folder), files={})
    files = {kind: folder / f"{kind}.gguf" for kind in ("BF16", "Q8_0", "Q4_0")}
    if not all(files[kind].is_file() for kind in kinds):
        _write_gguf(folder, files, environment)
    for kind in set(files) - set(kinds):
        files.pop(kind).unlink(missing_ok=True)
    return Weights(folder=folder, config=ModelConfig.load(folder), files=files)


def _folder(name: str, home: Path) -> tuple[Path, tuple[str, ...]]:
    """A model's folder, and the GGUF files that it is measured with."""
    if name == "0.6b":
        folder = home / "weights" / name
        if not (folder / "config.json").is_file():
            write_random(folder, QWEN3_06B)
        return folder, ("Q8_0", "Q4_0")
    if name == "bare":
        folder = home / "weights" / name
        if not (folder / "config.json").is_file():
            write_random(folder, BARE)
        return folder, ()
    assert name == "small"
    digest = hashlib.sha256((EMBEDDED / "model.safetensors").read_bytes()).hexdigest()
    folder = home / "weights" / f"small-{digest[:12]}"
    if not (folder / "config.json").is_file():
        for old in folder.parent.glob("small-*"):
            shutil.rmtree(old)
        write_longer(folder, EMBEDDED, CONTEXT)
    return folder, ("BF16", "Q8_0", "Q4_0")


def write_random(folder: Path, config: ModelConfig) -> None:
    """A model with random weights, the same at every call, and a tokenizer of words."""
    with torch.device("meta"):
        model = Transformer(config)
    draw = torch.Generator().manual_seed(0)

    def values(like: Tensor) -> Tensor:
        if like.ndim == 1:
            return torch.ones(like.shape, dtype=torch.bfloat16)
        # Norms make the scale of most matrices irrelevant; 0.02 is the usual start of training.
        return torch.empty(like.shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=draw)

    state = {name: values(like) for name, like in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    text = folder.with_name(f"{folder.name}-tokenizer")
    write_tokenizer(text, config.vocab_size)
    shutil.rmtree(folder, ignore_errors=True)
    checkpoint.save(folder, model, config, tokenizer_dir=text)
    shutil.rmtree(text)


def write_longer(folder: Path, source: Path, context: int) -> None:
    """The model of `source` with another context length and a tokenizer of words."""
    work = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    config = dataclasses.replace(ModelConfig.load(source), max_position_embeddings=context)
    write_tokenizer(work, config.vocab_size)
    shutil.copyfile(source / "model.safetensors", work / "model.safetensors")
    value = {**config.to_json(), "torch_dtype": "bfloat16"}
    checkpoint.write_json(work / "config.json", value)
    work.rename(folder)


def matrix_weights(config: ModelConfig) -> tuple[int, int]:
    """Weights of the layers' matrices, and of the head."""
    head = config.vocab_size * config.hidden_size
    return config.matmul_parameters - head, head


def _write_gguf(folder: Path, files: dict[str, Path], environment: Environment) -> None:
    command = [str(environment.python), str(Path(__file__).with_name("gguf_file.py")), str(folder)]
    command += [str(files["BF16"])]
    command += [f"{kind}={files[kind]}" for kind in ("Q8_0", "Q4_0")]
    done = subprocess.run(command, env=environment.variables, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"The GGUF files could not be written:\n{done.stderr[-2000:]}")


def describe(weights: Weights) -> dict[str, int]:
    """Bytes of each file, for the report."""
    sizes = {kind: path.stat().st_size for kind, path in weights.files.items()}
    return {"bf16 folder": (weights.folder / "model.safetensors").stat().st_size, **sizes}

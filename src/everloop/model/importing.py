"""`everloop import`: a stranger's model directory becomes a version in the registry, after it has
shown that it can speak.
"""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from everloop.errors import DataError, InvalidRequest
from everloop.model import checkpoint, lora
from everloop.model.template import ChatTemplate
from everloop.model.tokenizer import Tokenizer
from everloop.model.transformer import Cache, Transformer
from everloop.store.names import ModelVersion
from everloop.store.registry import Registry

PROBE = "Hello, world. 你好，世界。"
_TEXT_SUFFIXES = (".json", ".jinja", ".txt", ".md")
_LEGAL = ("LICENSE", "NOTICE", "COPYING")


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """The new version, and what it said after PROBE, greedily."""

    version: ModelVersion
    sample: str


def import_model(
    directory: Path,
    registry: Registry,
    *,
    name: str,
    source: str | None = None,
    base: str | None = None,
) -> Imported:
    """Copies the model (or PEFT adapter, on `base`) in `directory`, checks the copy and registers
    it as the next version of `name`.

    Only weights, text files and licences are taken. Raises DataError or InvalidRequest with what
    is wrong, NotFound for an unknown `base`; nothing is registered then.
    """
    adapter = (directory / lora.CONFIG_FILE).is_file()
    if adapter and base is None:
        base = lora.read_config(directory).base
        if base is None or registry.resolve(base) is None:
            raise InvalidRequest(
                f"{directory} is a LoRA adapter (made on {base or 'a model it does not name'}): "
                "say with --base which model here it belongs to.",
                param="base",
            )
    if not adapter and base is not None:
        raise InvalidRequest(f"{directory} is a full model: leave --base out.", param="base")
    # The copy is what gets checked and registered: the original may change meanwhile.
    work = registry.folder / f".checking-{secrets.token_hex(8)}"
    work.mkdir(parents=True)
    try:
        _copy(directory, work, adapter=adapter)
        sample = _speak_adapter(work, registry, base) if base is not None else _speak(work)
        version = registry.register(
            name,
            work,
            source or f"folder {directory.absolute()}",
            base=base,
            kind="lora" if base is not None else "full",
            move=True,
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Imported(version=version, sample=sample)


def check_speaks(model: Transformer, tokenizer: Tokenizer, where: str, *, tokens: int = 12) -> str:
    """Continues PROBE greedily and returns the new text.

    Raises DataError if the tokenizer has ids that the model hasn't, or a logit isn't finite.
    """
    vocabulary = model.config.vocab_size
    if tokenizer.vocab_size > vocabulary:
        raise DataError(
            f"tokenizer.json has {tokenizer.vocab_size} tokens, the model only {vocabulary}.",
            path=where,
            repair="Take both from the same model.",
        )
    ids = tokenizer.encode(PROBE, add_special_tokens=True)
    ids = ids[: max(1, model.config.max_position_embeddings - tokens)]
    if not ids:
        raise DataError("the tokenizer makes nothing of ordinary text.", path=where)
    said: list[int] = []
    cache, step = Cache(), torch.tensor([ids])
    with torch.inference_mode():
        for _ in range(tokens):
            logits = model(step, cache=cache)[0]
            if not logits.isfinite().all():
                raise DataError(
                    "computes infinities or NaN: its weights are damaged.",
                    path=where,
                    repair="Download or train it again.",
                )
            said.append(int(logits[-1].argmax()))
            step = torch.tensor([said[-1:]])
    return tokenizer.decode(said)


def _speak(directory: Path) -> str:
    _, model = checkpoint.load(directory, dtype=None)
    tokenizer = Tokenizer.load(directory)
    if tokenizer.config.get("chat_template") or (directory / "chat_template.jinja").exists():
        template = ChatTemplate.load(directory, tokenizer)
        template.encode([{"role": "user", "content": PROBE}])
    return check_speaks(model, tokenizer, str(directory))


def _speak_adapter(directory: Path, registry: Registry, base: str) -> str:
    from everloop.model.versions import load_version, text_directory

    below = registry.get(base)
    _, model = load_version(below, registry, dtype=None)
    lora.load(directory, model)
    lora.merge(model)
    tokenizer = Tokenizer.load(text_directory(below, registry))
    return check_speaks(model, tokenizer, str(directory))


def _copy(directory: Path, target: Path, *, adapter: bool) -> None:
    if adapter:
        weights = [directory / lora.WEIGHTS_FILE]
        if not weights[0].is_file():
            checkpoint.refuse_pickles([p.name for p in directory.iterdir()], str(directory))
            raise DataError(f"has no {lora.WEIGHTS_FILE}.", path=str(directory))
    else:
        weights = list(checkpoint.weight_files(directory))
    texts = [
        path
        for path in directory.iterdir()
        if path.is_file() and (path.suffix in _TEXT_SUFFIXES or path.stem in _LEGAL)
    ]
    for path in (*weights, *texts):
        shutil.copyfile(path, target / path.name)

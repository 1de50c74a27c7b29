"""`pretrain` and `finetune`: from packed data to a model directory, by one trainer.

A run directory holds plan.json, metrics.jsonl, loss.png, checkpoints/ and, at the end, model/ with
run.json in it: all that is needed to say how the model came to be. Called again with the same
--out, a run goes on from its last checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from everloop.data.files import disk_errors
from everloop.data.pack import PackedDataset
from everloop.errors import InvalidRequest
from everloop.model import checkpoint as model_files
from everloop.model import early_exit
from everloop.model.atomic import new_directory
from everloop.model.config import ModelConfig
from everloop.model.early_exit import EarlyExits
from everloop.model.tokenizer import Tokenizer
from everloop.model.transformer import Transformer
from everloop.train import checkpoint, distributed, provenance
from everloop.train.calibrate import calibrate, require_held_out
from everloop.train.distributed import Processes, whole
from everloop.train.interrupt import interrupted
from everloop.train.loader import Loader
from everloop.train.mixture import mixture
from everloop.train.options import Kind, Options
from everloop.train.plan import Plan
from everloop.train.planning import (
    Say,
    plan_pretraining,
    plan_tuning,
    read_plan,
    show,
    write_plan,
)
from everloop.train.plot import plot_losses
from everloop.train.trainer import Outcome, Trainer
from everloop.train.validation import bits_per_byte


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What both kinds of training hand to the trainer."""

    kind: Kind
    plan: Plan
    bf16: bool
    data: PackedDataset
    data_dir: Path
    text_dir: Path
    """Where tokenizer and template are."""
    base: Path | None
    out: Path
    options: Options
    processes: Processes
    say: Say


def pretrain(
    data_dir: Path,
    tokenizer_dir: Path,
    out: Path,
    options: Options,
    say: Say = print,
    base: Path | None = None,
) -> Outcome:
    """Trains a model on packed text, from fresh weights or on from those of `base`.

    `data_dir` is what `everloop data pack` wrote with the tokenizer in `tokenizer_dir`; `out`
    becomes the run directory.
    """
    require_unfinished(out)
    data = PackedDataset(data_dir, "train")
    text_dir = base or tokenizer_dir
    _check_tokenizer(data, text_dir)
    options = _seeded(options, base, data_dir, out)
    with _joined(options, say) as (processes, say):
        if _begun(out, processes):
            config, plan, bf16 = _read(out, "pretrain", options, data_dir, say)
        elif base is not None:
            config = ModelConfig.load(base)
            plan, bf16 = plan_tuning(config, data, "pretrain", options, processes, say)
        else:
            tokenizer = Tokenizer.load(tokenizer_dir)
            config, plan, bf16 = plan_pretraining(data, tokenizer, options, processes, say)
        say(show(plan, config))
        if base is not None:
            model = _owned(model_files.load(base)[1])
        else:
            model = Transformer(config)
            model.initialize(plan.seed)
        return _train(
            model,
            _Run(
                kind="pretrain",
                plan=plan,
                bf16=bf16,
                data=data,
                data_dir=data_dir,
                text_dir=text_dir,
                base=base,
                out=out,
                options=options,
                processes=processes,
                say=say,
            ),
        )


def finetune(base: Path, data_dir: Path, out: Path, options: Options, say: Say = print) -> Outcome:
    """Tunes the model in directory `base` on packed examples, all weights or LoRA adapters."""
    require_unfinished(out)
    data = PackedDataset(data_dir, "train")
    _check_tokenizer(data, base)
    options = _seeded(options, base, data_dir, out)
    kind: Kind = "lora" if options.lora_rank else "finetune"
    if options.exit_loss and options.lora_rank:
        raise InvalidRequest(
            "--exit-loss tunes all weights, so that earlier layers learn to speak: leave --lora "
            "out.",
            param="exit_loss",
        )
    with _joined(options, say) as (processes, say):
        config, model = model_files.load(base)
        model = _owned(model)
        if _begun(out, processes):
            _, plan, bf16 = _read(out, kind, options, data_dir, say)
        else:
            plan, bf16 = plan_tuning(config, data, kind, options, processes, say)
        say(show(plan, config))
        if options.lora_rank:
            from everloop.model import lora

            adapter = lora.LoraConfig(rank=options.lora_rank, alpha=2.0 * options.lora_rank)
            lora.attach(model, adapter, seed=plan.seed)
        return _train(
            model,
            _Run(
                kind=kind,
                plan=plan,
                bf16=bf16,
                data=data,
                data_dir=data_dir,
                text_dir=base,
                base=base,
                out=out,
                options=options,
                processes=processes,
                say=say,
            ),
        )


def _seeded(options: Options, base: Path | None, data_dir: Path, out: Path) -> Options:
    """A run that begins gets a seed; one that goes on has its own."""
    if options.seed is not None or (out / "plan.json").exists():
        return options
    return replace(options, seed=provenance.fresh_seed(base, data_dir))


def require_unfinished(out: Path) -> None:
    """Raises InvalidRequest if the run in `out` has its model already."""
    if (out / "model").exists():
        raise InvalidRequest(f"{out / 'model'} is finished. Choose another --out.", param="out")


def _train(model: Transformer, run: _Run) -> Outcome:
    plan, processes, out, say = run.plan, run.processes, run.out, run.say
    for flag, given in (("--compile", run.options.compile), ("--fsdp", processes.sharded)):
        if plan.robust and given:
            raise InvalidRequest(
                f"--robust looks into the model between its layers, which {flag} closes. Leave one "
                "of them out.",
                param="robust",
            )
    if plan.exit_loss:
        require_held_out(run.data)
    mixed = mixture(run.data, plan.balance)
    say(mixed.show(plan.tokens))
    loader = Loader(
        run.data,
        sequence_length=plan.sequence_length,
        rows=plan.rows,
        seed=plan.seed,
        weights=[source.weight for source in mixed.sources],
        counts=[source.counts for source in mixed.sources],
        cut=run.kind == "pretrain",
    )
    if loader.left_out:
        say(
            f"{loader.left_out} of {len(run.data)} examples are longer than --sequence-length "
            f"{plan.sequence_length} and are left out."
        )
    fingerprint = provenance.fingerprint(run.data_dir)
    with disk_errors(out), interrupted() as stop:
        if processes.first:
            out.mkdir(parents=True, exist_ok=True)
            _sweep(out)
            if not (out / "plan.json").exists():
                write_plan(
                    out / "plan.json",
                    model.config,
                    plan,
                    run.bf16,
                    kind=run.kind,
                    options=run.options,
                    data=fingerprint,
                )
        processes.barrier()
        model.to(processes.device)
        if processes.sharded:
            distributed.shard(model, model.model.layers, processes)
        if run.options.compile:
            model.hidden = torch.compile(model.hidden, dynamic=True)  # type: ignore[method-assign]
        trainer = Trainer(
            model=model,
            plan=plan,
            loader=loader,
            run=out,
            tokenizer_dir=run.text_dir,
            data_fingerprint=fingerprint,
            processes=processes,
            bf16=run.bf16,
            checkpoint_minutes=run.options.checkpoint_minutes,
            validate=_validation(run),
            validate_steps=run.options.validate_steps,
            stop=stop,
        )
        before = checkpoint.found(out)
        if before:
            trainer.resume(before[-1])
            say(f"Going on from {before[-1].name} of {plan.steps}.")
        outcome = trainer.train()
        if not outcome.finished:
            say(f"Stopped after step {outcome.steps}; the same command goes on from there.")
            return outcome
        _finish(model, run, outcome)
    return outcome


def _finish(model: Transformer, run: _Run, outcome: Outcome) -> None:
    """Writes the model, its record, its exits and the loss curve. Every process must call it."""
    weights = {n: whole(t).detach().cpu() for n, t in model.state_dict().items()}
    target = run.out / "model"
    if run.processes.first:
        with new_directory(target) as work:
            checkpoint.write_model(
                work / "files",
                model,
                weights,
                tokenizer_dir=run.text_dir,
                dtype=model_files.DTYPES[run.options.save_dtype],
            )
            for file in (work / "files").iterdir():
                file.rename(work / file.name)
            (work / "files").rmdir()
            record = provenance.record(
                kind=run.kind,
                model=model,
                plan=run.plan,
                outcome=outcome,
                data_dir=run.data_dir,
                base=run.base,
                bf16=run.bf16,
            )
            text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
            (work / "run.json").write_text(text, encoding="utf-8")
            if run.plan.exit_loss:
                exits = _exits(work, run)
                (work / early_exit.FILE).write_text(exits.to_json(), encoding="utf-8")
        plot_losses(run.out)
        run.say(f"{target} is ready ({outcome.seconds / 60:.1f} minutes).")
    run.processes.barrier()


def _exits(directory: Path, run: _Run) -> EarlyExits:
    """When tokens may leave the model in `directory` early, measured on held-out text."""
    device = run.processes.device
    _, model = model_files.load(directory)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=run.bf16):
        exits = calibrate(
            model.to(device),
            PackedDataset(run.data_dir, "validation"),
            sequence_length=run.plan.sequence_length,
            rows=run.plan.micro_rows,
        )
    best = exits.points[-1]
    run.say(
        f"Early exits: {len(exits.points)} points measured on {exits.tokens:,} held-out tokens, "
        f"from {exits.points[0].agreement:.2%} agreement down to {best.agreement:.2%}, where "
        f"{best.exited:.0%} of them leave after {best.layer} of {exits.layers} layers."
    )
    return exits


def _validation(run: _Run) -> Callable[[Transformer], dict[str, float]] | None:
    held_out = PackedDataset(run.data_dir, "validation")
    if not len(held_out):
        return None
    return bits_per_byte(
        held_out,
        Tokenizer.load(run.text_dir),
        sequence_length=run.plan.sequence_length,
        rows=run.plan.micro_rows,
        device=run.processes.device,
    )


@contextmanager
def _joined(options: Options, say: Say) -> Iterator[tuple[Processes, Say]]:
    """This process's place in the run; only the first one speaks."""
    processes = distributed.start(sharded=options.fsdp)
    try:
        yield processes, say if processes.first else _silent
    finally:
        distributed.stop()


def _begun(out: Path, processes: Processes) -> bool:
    """Whether `out` has a plan: the first process looks, before any of them could write one."""
    return bool(processes.broadcast({"begun": (out / "plan.json").exists()})["begun"])


def _read(
    out: Path, kind: Kind, options: Options, data_dir: Path, say: Say
) -> tuple[ModelConfig, Plan, bool]:
    data = provenance.fingerprint(data_dir)
    return read_plan(out / "plan.json", kind=kind, options=options, data=data, say=say)


def _sweep(out: Path) -> None:
    """Removes what killed processes left half-written."""
    for folder in (out, out / "checkpoints"):
        for path in folder.glob(".*.partial"):
            shutil.rmtree(path)


def _check_tokenizer(data: PackedDataset, directory: Path) -> None:
    """Ids mean nothing to another tokenizer: the loss would look fine and the text be garbage."""
    path = directory / "tokenizer.json"
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "none"
    if found != data.manifest["tokenizer_sha256"]:
        raise InvalidRequest(
            f"{data.directory} was packed with another tokenizer than {path}: pack it again with "
            f"--tokenizer {directory}.",
            param="tokenizer",
        )


def _owned(model: Transformer) -> Transformer:
    """Weights of our own in float32: loaded ones are a read-only view of the file."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone().float()
    return model


def _silent(_text: str) -> None:
    return None

"""`pretrain` and `finetune`: from packed data to a model directory, by one trainer.

A run directory holds plan.json, metrics.jsonl, loss.png, checkpoints/ and, at the end, model/ with
run.json in it: all that is needed to say how the model came to be. Called again with the same
--out, a run goes on from its last checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from everloop.data.pack import PackedDataset
from everloop.errors import InvalidRequest
from everloop.model import checkpoint as model_files
from everloop.model.atomic import new_directory
from everloop.model.config import ModelConfig
from everloop.model.tokenizer import END_OF_TEXT, TURN_END, Tokenizer
from everloop.model.transformer import Transformer
from everloop.train import checkpoint, distributed, provenance
from everloop.train.distributed import Processes, whole
from everloop.train.loader import Loader
from everloop.train.plan import Plan, derive, size_config, size_for
from everloop.train.plot import plot_losses
from everloop.train.probe import matmul_flops_per_s, training_speed
from everloop.train.trainer import Outcome, Trainer
from everloop.train.validation import bits_per_byte

Kind = Literal["pretrain", "finetune", "lora"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user may set; None is derived and printed."""

    minutes: float | None = None
    """Budget by time: a probe measures the machine and sets the tokens."""
    flops: float | None = None
    """Budget by floating-point operations."""
    size: str | None = None
    """Model size (pretraining), d4 … d20."""
    tokens: int | None = None
    """Budget in tokens; wins over the other three."""
    epochs: float | None = None
    """Budget in passes over the data (tuning)."""
    context_length: int = 1024
    """Of a model made here."""
    sequence_length: int | None = None
    batch_tokens: int | None = None
    micro_tokens: int | None = None
    matrix_lr: float | None = None
    embedding_lr: float | None = None
    head_lr: float | None = None
    scalar_lr: float | None = None
    weight_decay: float | None = None
    warmup_steps: int | None = None
    warmdown: float | None = None
    seed: int = 0
    lora_rank: int = 0
    """0: tune all weights; else adapters of this rank."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    fsdp: bool = False
    probe_seconds: float = 60.0
    checkpoint_minutes: float = 5.0
    validate_steps: int = 0
    """Steps between held-out checks; 0: at the end only."""
    save_dtype: Literal["fp32", "bf16", "fp16"] = "bf16"


def pretrain(
    data_dir: Path,
    tokenizer_dir: Path,
    out: Path,
    options: Options,
    say: Callable[[str], None] = print,
    base: Path | None = None,
) -> Outcome:
    """Trains a model on packed text, from fresh weights or on from those of `base`.

    `data_dir` is what `everloop data pack` wrote with the tokenizer in `tokenizer_dir`; `out`
    becomes the run directory.
    """
    data = PackedDataset(data_dir, "train")
    _check_tokenizer(data, base or tokenizer_dir)
    tokenizer = Tokenizer.load(tokenizer_dir)
    processes = distributed.start(sharded=options.fsdp)
    try:
        plan_path = out / "plan.json"
        if plan_path.exists():
            config, plan, bf16 = _read_plan(plan_path, options, say)
        elif base is not None:
            config = ModelConfig.load(base)
            plan, bf16 = _plan_tuning(config, data, "pretrain", options, processes, say)
        else:
            config, plan, bf16 = _plan_pretraining(data, tokenizer, options, processes, say)
        say(show(plan, config))
        if base is not None:
            model = _owned(model_files.load(base)[1])
        else:
            model = Transformer(config)
            model.initialize(plan.seed)
        text = base or tokenizer_dir
        return _train(
            model, "pretrain", plan, bf16, data, data_dir, text, out, options, processes, say, base
        )
    finally:
        distributed.stop()


def finetune(
    base: Path, data_dir: Path, out: Path, options: Options, say: Callable[[str], None] = print
) -> Outcome:
    """Tunes the model in directory `base` on packed examples, all weights or LoRA adapters."""
    data = PackedDataset(data_dir, "train")
    _check_tokenizer(data, base)
    processes = distributed.start(sharded=options.fsdp)
    try:
        config, model = model_files.load(base)
        model = _owned(model)
        kind: Kind = "lora" if options.lora_rank else "finetune"
        if options.lora_rank:
            from everloop.model import lora

            rank = options.lora_rank
            adapter = lora.LoraConfig(rank=rank, alpha=2.0 * rank)
            lora.attach(model, adapter, seed=options.seed)
        plan_path = out / "plan.json"
        if plan_path.exists():
            _, plan, bf16 = _read_plan(plan_path, options, say)
        else:
            plan, bf16 = _plan_tuning(config, data, kind, options, processes, say)
        say(show(plan, config))
        return _train(
            model, kind, plan, bf16, data, data_dir, base, out, options, processes, say, base
        )
    finally:
        distributed.stop()


def _train(
    model: Transformer,
    kind: Kind,
    plan: Plan,
    bf16: bool,
    data: PackedDataset,
    data_dir: Path,
    text_dir: Path,
    out: Path,
    options: Options,
    processes: Processes,
    say: Callable[[str], None],
    base: Path | None,
) -> Outcome:
    if not processes.first:
        say = _silent
    target = out / "model"
    if target.exists():
        raise InvalidRequest(f"{target} is finished. Choose another --out.", param="out")
    tokenizer = Tokenizer.load(text_dir)
    loader = Loader(
        data,
        sequence_length=plan.sequence_length,
        rows=plan.rows,
        seed=plan.seed,
        weights=[float(s.get("weight", 1.0)) for s in data.manifest["sources"]],
        cut=kind == "pretrain",
    )
    if loader.left_out:
        say(
            f"{loader.left_out} of {len(data)} examples are longer than --sequence-length "
            f"{plan.sequence_length} and are left out."
        )
    if processes.first:
        out.mkdir(parents=True, exist_ok=True)
        if not (out / "plan.json").exists():
            _write_plan(out / "plan.json", model.config, plan, bf16, data)
    processes.barrier()
    model.to(processes.device)
    if processes.sharded:
        distributed.shard(model, model.model.layers, processes)
    if options.compile:
        model.hidden = torch.compile(model.hidden, dynamic=True)  # type: ignore[method-assign]
    validate = None
    held_out = PackedDataset(data_dir, "validation")
    if len(held_out):
        validate = bits_per_byte(
            held_out,
            tokenizer,
            sequence_length=plan.sequence_length,
            rows=plan.micro_rows,
            device=processes.device,
        )
    trainer = Trainer(
        model=model,
        plan=plan,
        loader=loader,
        run=out,
        tokenizer_dir=text_dir,
        data_fingerprint=provenance.fingerprint(data_dir),
        processes=processes,
        bf16=bf16,
        checkpoint_minutes=options.checkpoint_minutes,
        validate=validate,
        validate_steps=options.validate_steps,
        stop=_interrupted(),
    )
    before = checkpoint.found(out)
    if before:
        trainer.resume(before[-1])
        say(f"Going on from {before[-1].name} of {plan.steps}.")
    outcome = trainer.train()
    if not outcome.finished:
        say(f"Stopped after step {outcome.steps}; the same command goes on from there.")
        return outcome
    weights = {n: whole(t).detach().cpu() for n, t in model.state_dict().items()}
    if processes.first:
        with new_directory(target) as work:
            checkpoint.write_model(
                work / "files",
                model,
                weights,
                tokenizer_dir=text_dir,
                dtype=model_files.DTYPES[options.save_dtype],
            )
            for file in (work / "files").iterdir():
                file.rename(work / file.name)
            (work / "files").rmdir()
            record = provenance.record(
                kind=kind,
                model=model,
                plan=plan,
                outcome=outcome,
                data_dir=data_dir,
                base=base,
                bf16=bf16,
            )
            text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
            (work / "run.json").write_text(text, encoding="utf-8")
        plot_losses(out)
        say(f"{target} is ready ({outcome.seconds / 60:.1f} minutes).")
    processes.barrier()
    return outcome


def _plan_pretraining(
    data: PackedDataset,
    tokenizer: Tokenizer,
    options: Options,
    processes: Processes,
    say: Callable[[str], None],
) -> tuple[ModelConfig, Plan, bool]:
    vocabulary = -(-tokenizer.vocab_size // 64) * 64
    flops = options.flops
    if flops is None and options.minutes is not None:
        # About half of the machine's matrix rate is what training gets.
        rate = matmul_flops_per_s(processes.device, torch.bfloat16) * processes.world
        flops = 0.5 * rate * options.minutes * 60
        say(f"Matrix products run at {rate / 1e9:,.0f} GFLOP/s in bfloat16 here.")
    if options.size is None and flops is None:
        raise InvalidRequest("Give one of --minutes, --flops or --size.", param="minutes")
    size = options.size or size_for(flops or 0.0, vocab_size=vocabulary)
    config = size_config(size, vocab_size=vocabulary, context_length=options.context_length)
    end, text_end = tokenizer.token_to_id(TURN_END), tokenizer.token_to_id(END_OF_TEXT)
    config = replace(
        config,
        eos_token_ids=tuple(i for i in (end, text_end) if i is not None),
        pad_token_id=text_end,
    )
    budget = options.tokens
    if budget is None and flops is not None:
        budget = int(flops / config.flops_per_token(256))
    if budget is None:
        budget = 8 * config.matmul_parameters
    plan = _derive(config, budget, "pretrain", options, processes)
    say(
        f"Model {size}: {config.num_hidden_layers} layers × {config.hidden_size}, vocabulary "
        f"{vocabulary:,}, {config.parameters / 1e6:.2f}M parameters "
        f"({config.matmul_parameters / 1e6:.2f}M in matrix products)."
    )
    plan, bf16 = _measure(config, plan, data, "pretrain", options, processes, say)
    return config, plan, bf16


def _plan_tuning(
    config: ModelConfig,
    data: PackedDataset,
    kind: Kind,
    options: Options,
    processes: Processes,
    say: Callable[[str], None],
) -> tuple[Plan, bool]:
    pairs = int((data.lengths - 1).clip(min=0).sum())
    budget = options.tokens
    if budget is None and options.flops is not None:
        budget = int(options.flops / config.flops_per_token(256))
    if budget is None:
        budget = int(pairs * (options.epochs if options.epochs is not None else 3.0))
    plan = _derive(config, max(budget, 1), kind, options, processes)
    return _measure(config, plan, data, kind, options, processes, say)


def _derive(
    config: ModelConfig, tokens: int, kind: Kind, options: Options, processes: Processes
) -> Plan:
    gpu = processes.device.type == "cuda"
    micro = options.micro_tokens or (65_536 if gpu else 4096)
    return derive(
        config,
        tokens=tokens,
        kind=kind,
        sequence_length=options.sequence_length,
        batch_tokens=options.batch_tokens,
        micro_tokens=micro,
        matrix_lr=options.matrix_lr,
        embedding_lr=options.embedding_lr,
        head_lr=options.head_lr,
        scalar_lr=options.scalar_lr,
        weight_decay=options.weight_decay,
        warmup_steps=options.warmup_steps,
        warmdown=options.warmdown,
        seed=options.seed,
    )


def _measure(
    config: ModelConfig,
    plan: Plan,
    data: PackedDataset,
    kind: Kind,
    options: Options,
    processes: Processes,
    say: Callable[[str], None],
) -> tuple[Plan, bool]:
    """Chooses the precision and, with --minutes, the token budget, by a measured minute."""
    timed = options.minutes is not None and options.tokens is None
    if options.precision != "auto" and not timed:
        return plan, options.precision == "bf16"
    loader = Loader(
        data, sequence_length=plan.sequence_length, rows=plan.rows, seed=plan.seed,
        cut=kind == "pretrain",
    )  # fmt: skip
    seconds = options.probe_seconds if timed else min(options.probe_seconds, 6.0)
    speed = training_speed(config, plan, loader, processes, seconds=seconds)
    bf16 = speed.bf16 if options.precision == "auto" else options.precision == "bf16"
    say(
        f"Measured {speed.tokens_per_s:,.0f} tokens/s ({speed.flops_per_s / 1e9:,.0f} GFLOP/s) in "
        f"{'bfloat16 autocast' if speed.bf16 else 'float32'}."
    )
    if timed and options.minutes is not None:
        budget = int(speed.tokens_per_s * processes.world * options.minutes * 60)
        plan = _derive(config, max(budget, 1), kind, options, processes)
    # Processes must agree on what each measured: the first one's word counts.
    agreed = processes.broadcast({"tokens": plan.tokens, "bf16": bf16})
    if agreed["tokens"] != plan.tokens:
        plan = _derive(config, agreed["tokens"], kind, options, processes)
    return plan, bool(agreed["bf16"])


def show(plan: Plan, config: ModelConfig) -> str:
    """The derived numbers as printed before a run."""
    flops = plan.tokens * config.flops_per_token(plan.sequence_length // 2)
    return (
        f"{plan.tokens:,} tokens in {plan.steps:,} steps of {plan.batch_tokens:,} "
        f"({plan.rows} rows × {plan.sequence_length}, {plan.micro_rows} at once), "
        f"{flops:.2e} FLOPs.\n"
        f"Rates: matrices {plan.matrix_lr:.4g} (Muon), embedding {plan.embedding_lr:.4g}, head "
        f"{plan.head_lr:.4g}, norms {plan.scalar_lr:.4g} (AdamW); decay {plan.weight_decay:g}; "
        f"{plan.warmup_steps} steps up, the last {plan.warmdown:.0%} down to {plan.final_lr:.0%}."
    )


def _write_plan(
    path: Path, config: ModelConfig, plan: Plan, bf16: bool, data: PackedDataset
) -> None:
    value = {"config": config.to_json(), "plan": asdict(plan), "bf16": bf16}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def _read_plan(
    path: Path, options: Options, say: Callable[[str], None]
) -> tuple[ModelConfig, Plan, bool]:
    """A run that was begun keeps its plan: only its length may be set anew."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    plan = Plan(**value["plan"])
    given = {k: v for k, v in asdict(options).items() if k in value["plan"] and v is not None}
    tokens = given.pop("tokens", None)
    for name, wanted in given.items():
        if wanted != value["plan"][name] and not (name == "seed" and wanted == 0):
            raise InvalidRequest(
                f"{path} was begun with {name}={value['plan'][name]}, now {wanted} is asked for. "
                "Leave it out to go on, or choose another --out.",
                param=name,
            )
    if tokens is not None and tokens != plan.tokens:
        say(f"The run's length changes from {plan.tokens:,} to {tokens:,} tokens.")
        plan = replace(plan, tokens=tokens)
    return ModelConfig.from_json(value["config"]), plan, bool(value["bf16"])


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


def _interrupted() -> Callable[[], bool]:
    """True once Ctrl-C or SIGTERM came: the step is finished and a checkpoint written."""
    asked = False

    def ask(_signal: int, _frame: object) -> None:
        nonlocal asked
        asked = True
        # A second time means it.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        signal.signal(signal.SIGINT, ask)
        signal.signal(signal.SIGTERM, ask)
    except ValueError:  # not the main thread: the caller stops us its own way
        pass
    return lambda: asked


def _silent(_text: str) -> None:
    return None

"""`everloop finetune`: examples to a tuned model, registered under a name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def finetune(
    model: Annotated[str, typer.Argument(help="Name of a model, or a model directory.")],
    data: Annotated[
        Path,
        typer.Argument(help="Packed examples, a source specification (TOML), or a file of rows."),
    ],
    out: Annotated[Path, typer.Option(help="Run directory; an interrupted run goes on.")],
    name: Annotated[
        str | None, typer.Option(help="Register the result, so that `serve` and `chat` find it.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data (default 3).")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Budget by time: the machine is measured first.")
    ] = None,
    flops: Annotated[float | None, typer.Option(help="Budget by operations.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Budget in tokens.")] = None,
    lora: Annotated[int, typer.Option(help="Rank of LoRA adapters; 0 tunes all weights.")] = 0,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens of a training row.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens of an optimizer step.")] = None,
    micro_tokens: Annotated[int | None, typer.Option(help="Tokens in memory at once.")] = None,
    matrix_lr: Annotated[float | None, typer.Option(help="Muon's rate.")] = None,
    embedding_lr: Annotated[float | None, typer.Option(help="AdamW, embedding table.")] = None,
    head_lr: Annotated[float | None, typer.Option(help="AdamW, output head.")] = None,
    scalar_lr: Annotated[float | None, typer.Option(help="AdamW, norms and adapters.")] = None,
    warmup_steps: Annotated[int | None, typer.Option(help="Steps to the full rate.")] = None,
    warmdown: Annotated[float | None, typer.Option(help="Last part with falling rate.")] = None,
    exit_loss: Annotated[
        float | None, typer.Option(help="Weight of an earlier layer's loss, for early exits.")
    ] = None,
    balance: Annotated[
        float | None,
        typer.Option(help="0: all targets count alike; 1: sources count as their tokens do."),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(help="Share of the examples whose user makes mistakes, 0 to 1."),
    ] = None,
    robust: Annotated[
        str | None,
        typer.Option(
            help="Loss terms against noise: neftune, dropout, rdrop, vat, freelb.",
            metavar="TERM=VALUE,…",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Data order and fresh adapters; default: a new order where it trains on."
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    compile_: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
    fsdp: Annotated[bool, typer.Option(help="Shard with FSDP2 (under torchrun).")] = False,
    probe_seconds: Annotated[float, typer.Option(help="Length of the measurement.")] = 60.0,
    checkpoint_minutes: Annotated[float, typer.Option(help="Minutes between checkpoints.")] = 5.0,
    validate_steps: Annotated[int, typer.Option(help="Steps between held-out checks.")] = 0,
    save_dtype: Annotated[str, typer.Option(help="Weights of the result.")] = "bf16",
) -> None:
    """Tune a model on examples: all weights, or LoRA adapters with --lora RANK."""
    from everloop.cli.training import (
        model_directory,
        options,
        packed,
        register,
        require_registrable,
    )
    from everloop.train import run

    chosen = options(
        epochs=epochs,
        minutes=minutes,
        flops=flops,
        tokens=tokens,
        lora_rank=lora,
        sequence_length=sequence_length,
        batch_tokens=batch_tokens,
        micro_tokens=micro_tokens,
        matrix_lr=matrix_lr,
        embedding_lr=embedding_lr,
        head_lr=head_lr,
        scalar_lr=scalar_lr,
        warmup_steps=warmup_steps,
        warmdown=warmdown,
        exit_loss=exit_loss,
        balance=balance,
        robust=robust,
        seed=seed,
        precision=precision,
        compile=compile_,
        fsdp=fsdp,
        probe_seconds=probe_seconds,
        checkpoint_minutes=checkpoint_minutes,
        validate_steps=validate_steps,
        save_dtype=save_dtype,
    )
    run.require_unfinished(out)
    base = model_directory(model)
    if name is not None:
        require_registrable(name, base=model, adapter=bool(lora))
    outcome = run.finetune(base, packed(data, base, out, noise), out, chosen, say=_say)
    if not outcome.finished:
        raise typer.Exit(130)
    if name is not None:
        register(name, out / "model", base=model, adapter=bool(lora))
        _say(f"Registered as {name}: try `everloop chat --model {name}`.")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

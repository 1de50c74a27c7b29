"""`everloop pretrain`: raw text, packed, to a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def pretrain(
    data: Annotated[Path, typer.Argument(help="What `everloop data pack` wrote.")],
    out: Annotated[Path, typer.Option(help="Run directory; an interrupted run goes on.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="Directory of the tokenizer that packed DATA.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="Go on from this model's weights instead of fresh ones.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Budget by time: the machine is measured first.")
    ] = None,
    flops: Annotated[float | None, typer.Option(help="Budget by operations, e.g. 1e15.")] = None,
    size: Annotated[str | None, typer.Option(help="d2, d4, d6, d8, d10, d12, d16, d20.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Budget in tokens.")] = None,
    context_length: Annotated[int, typer.Option(help="The model's context in tokens.")] = 1024,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens of a training row.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens of an optimizer step.")] = None,
    micro_tokens: Annotated[int | None, typer.Option(help="Tokens in memory at once.")] = None,
    matrix_lr: Annotated[float | None, typer.Option(help="Muon's rate.")] = None,
    embedding_lr: Annotated[float | None, typer.Option(help="AdamW, embedding table.")] = None,
    head_lr: Annotated[float | None, typer.Option(help="AdamW, output head.")] = None,
    scalar_lr: Annotated[float | None, typer.Option(help="AdamW, norms.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="On matrices, down to 0.")] = None,
    warmup_steps: Annotated[int | None, typer.Option(help="Steps to the full rate.")] = None,
    warmdown: Annotated[float | None, typer.Option(help="Last part with falling rate.")] = None,
    exit_loss: Annotated[
        float | None, typer.Option(help="Weight of an earlier layer's loss, for early exits.")
    ] = None,
    balance: Annotated[
        float | None,
        typer.Option(help="0: all targets count alike; 1: sources count as their tokens do."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Weights and data order; default: a new order where it trains on."),
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    compile_: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
    fsdp: Annotated[bool, typer.Option(help="Shard with FSDP2 (under torchrun).")] = False,
    probe_seconds: Annotated[float, typer.Option(help="Length of the measurement.")] = 60.0,
    checkpoint_minutes: Annotated[float, typer.Option(help="Minutes between checkpoints.")] = 5.0,
    validate_steps: Annotated[int, typer.Option(help="Steps between held-out checks.")] = 0,
    save_dtype: Annotated[str, typer.Option(help="Weights of the result.")] = "bf16",
) -> None:
    """Train a model on packed text. Give one dial: --minutes, --flops or --size."""
    from everloop.cli.training import options
    from everloop.errors import InvalidRequest
    from everloop.train import run

    source = base or tokenizer
    if source is None:
        raise InvalidRequest(
            "Give --tokenizer DIR, the one that `everloop data pack` used (or --base MODEL).",
            param="tokenizer",
        )
    chosen = options(
        minutes=minutes,
        flops=flops,
        size=size,
        tokens=tokens,
        context_length=context_length,
        sequence_length=sequence_length,
        batch_tokens=batch_tokens,
        micro_tokens=micro_tokens,
        matrix_lr=matrix_lr,
        embedding_lr=embedding_lr,
        head_lr=head_lr,
        scalar_lr=scalar_lr,
        weight_decay=weight_decay,
        warmup_steps=warmup_steps,
        warmdown=warmdown,
        exit_loss=exit_loss,
        balance=balance,
        seed=seed,
        precision=precision,
        compile=compile_,
        fsdp=fsdp,
        probe_seconds=probe_seconds,
        checkpoint_minutes=checkpoint_minutes,
        validate_steps=validate_steps,
        save_dtype=save_dtype,
    )
    outcome = run.pretrain(data, source, out, chosen, say=_say, base=base)
    if not outcome.finished:
        raise typer.Exit(130)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

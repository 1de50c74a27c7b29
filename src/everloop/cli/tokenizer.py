"""`everloop tokenizer`: train one, and see what it does to a text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def train(
    sources: Annotated[Path, typer.Argument(help="Source specification (TOML), or a text file.")],
    out: Annotated[Path, typer.Option(help="Directory for tokenizer.json and the template.")],
    vocab_size: Annotated[int, typer.Option(help="Tokens, special ones included.")] = 6400,
    max_mb: Annotated[float, typer.Option(help="Megabytes of text to learn from.")] = 50.0,
    context_length: Annotated[int, typer.Option(help="Written as model_max_length.")] = 1024,
    data: Annotated[
        Path | None, typer.Option(envvar="EVERLOOP_DATA", help="Root of the source files.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Train a byte-level BPE on a mix of sources and report bytes per token by language."""
    from everloop.data.sources import iter_texts
    from everloop.model.train_tokenizer import train_tokenizer

    texts = iter_texts(sources, max_bytes=int(max_mb * 1e6), root=data)
    print(f"Reading up to {max_mb:g} MB of text…", file=sys.stderr)
    train_tokenizer(
        texts,
        out,
        vocab_size=vocab_size,
        context_length=context_length,
        progress=sys.stderr.isatty(),
    )
    # Another seed: texts that the merges were mostly not learnt from.
    _report(out, iter_texts(sources, max_bytes=2_000_000, root=data, seed=1), as_json)


@app.command()
def show(
    tokenizer: Annotated[Path, typer.Argument(help="Directory with tokenizer.json.")],
    text: Annotated[str, typer.Argument(help="Text to cut into tokens.")],
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Show a text's tokens."""
    from everloop.model.tokenizer import Tokenizer

    loaded = Tokenizer.load(tokenizer)
    ids = loaded.encode(text)
    pieces = [loaded.token_bytes(i).decode("utf-8", "backslashreplace") for i in ids]
    if as_json:
        print(json.dumps({"ids": ids, "pieces": pieces}, ensure_ascii=False))
        return
    print("|".join(pieces))
    print(f"{len(ids)} tokens, {len(text.encode()) / max(1, len(ids)):.2f} bytes per token")


def _report(directory: Path, texts: object, as_json: bool) -> None:
    from collections.abc import Iterable
    from typing import cast

    from everloop.data.language import language
    from everloop.model.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(directory)
    totals: dict[str, list[int]] = {}
    for text in cast(Iterable[str], texts):
        total = totals.setdefault(language(text), [0, 0, 0])
        total[0] += len(text.encode())
        total[1] += len(tokenizer.encode(text))
        total[2] += len(text)
    rows = {
        name: {
            "bytes_per_token": round(size / max(1, tokens), 3),
            "characters_per_token": round(characters / max(1, tokens), 3),
        }
        for name, (size, tokens, characters) in sorted(totals.items())
    }
    if as_json:
        print(json.dumps({"vocab_size": tokenizer.vocab_size, "languages": rows}))
        return
    print(f"{directory / 'tokenizer.json'}: {tokenizer.vocab_size:,} tokens")
    for name, row in rows.items():
        print(
            f"  {name}: {row['bytes_per_token']:.2f} bytes, "
            f"{row['characters_per_token']:.2f} characters per token"
        )

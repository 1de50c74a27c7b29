"""The tables as the current program sees them; `migrations` holds how they came to be."""

from __future__ import annotations

from sqlalchemy import Column, Integer, LargeBinary, MetaData, String, Table

metadata = MetaData()

keys = Table(
    "keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("digest", LargeBinary, nullable=False, unique=True),  # HMAC-SHA256 of the key
    Column("hint", String, nullable=False),  # enough to recognise it, too little to use it
    Column("created", Integer, nullable=False),  # Unix seconds, as all times here
    Column("revoked", Integer),
)

models = Table(
    "models",
    metadata,
    Column("name", String, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("kind", String, nullable=False),  # full or lora
    Column("base", String),  # NAME@VERSION that a LoRA sits on
    Column("source", String, nullable=False),
    Column("sha256", String, nullable=False),
    Column("created", Integer, nullable=False),
    Column("removed", Integer),  # rows stay, so that a version's number is never used again
)

aliases = Table(
    "aliases",
    metadata,
    Column("alias", String, primary_key=True),  # a name, or a prefix ending in *
    Column("target", String, nullable=False),  # model, model@version, or another alias
)

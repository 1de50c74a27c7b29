"""API keys: shown once, kept as HMAC-SHA256 under a secret of the home.

Any text can be a key, so that a program with a fixed one works unchanged; ours have 288 random
bits. A check costs one hash and a look into memory; the database is asked again after a second, so
a revoked key stops working within that time, whichever process revoked it.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from everloop.errors import EverloopError, InvalidRequest, NotFound
from everloop.store.database import Database
from everloop.store.tables import keys as table

SECRET_FILE = "secret"
FRESH_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key without its text. `id` names the tenant it belongs to."""

    id: str
    name: str
    hint: str
    created: int
    revoked: int | None


def create(db: Database, name: str, *, plaintext: str | None = None) -> tuple[str, Key]:
    """Stores a key (a random one if none is given); returns its text, which is kept nowhere.

    Raises InvalidRequest for a blank or taken name, a key that
    no header can carry, or one that is there already.
    """
    with db.write() as connection:
        return _insert(connection, secret(db), name, plaintext)


def create_first(db: Database, plaintext: str | None = None) -> tuple[str, Key] | None:
    """The first key of a new home; None if the home ever had one."""
    with db.write() as connection:
        if connection.execute(sa.select(table.c.id).limit(1)).first() is not None:
            return None
        return _insert(connection, secret(db), "first", plaintext)


def verify(db: Database, plaintext: str) -> Key | None:
    """The key with this text, or None if there is none or it was revoked."""
    digest = _digest(secret(db), plaintext)
    cache = _cache.setdefault(db, {})
    known = cache.get(digest)
    if known is not None and time.monotonic() - known[0] < FRESH_SECONDS:
        return known[1]
    cache.pop(digest, None)
    with db.read() as connection:
        row = connection.execute(sa.select(table).where(table.c.digest == digest)).first()
    if row is None or row.revoked is not None or not hmac.compare_digest(row.digest, digest):
        return None
    key = _key(row)
    cache[digest] = (time.monotonic(), key)  # only real keys enter, so it stays small
    return key


def list_keys(db: Database) -> list[Key]:
    """Every key, revoked ones too, oldest first."""
    with db.read() as connection:
        rows = connection.execute(sa.select(table).order_by(table.c.created, table.c.id)).all()
    return [_key(row) for row in rows]


def revoke(db: Database, id_or_name: str) -> Key:
    """Ends a key for good. Raises NotFound if no active key has this id or name."""
    with db.write() as connection:
        row = connection.execute(
            sa.select(table).where(
                sa.or_(table.c.id == id_or_name, table.c.name == id_or_name),
                table.c.revoked.is_(None),
            )
        ).first()
        if row is None:
            raise NotFound(f"No active key `{id_or_name}`. `everloop keys list` shows them.")
        now = int(time.time())
        connection.execute(table.update().where(table.c.id == row.id).values(revoked=now))
    _cache.pop(db, None)
    return Key(id=row.id, name=row.name, hint=row.hint, created=row.created, revoked=now)


def secret(db: Database) -> bytes:
    """The home's secret, made at first use.

    Raises EverloopError if it has vanished while keys still depend on it.
    """
    known = _secrets.get(db)
    if known is None:
        path = db.home / SECRET_FILE
        if not path.exists():
            _make_secret(db, path)
        known = path.read_bytes()
        if len(known) != 32:
            raise EverloopError(f"{path} is damaged. Restore it from a backup of this home.")
        _secrets[db] = known
    return known


def _make_secret(db: Database, path: Path) -> None:
    if any(key.revoked is None for key in list_keys(db)):
        raise EverloopError(
            f"{path} is missing, so no key can be checked. Restore it from a backup, or revoke the "
            "old keys (`everloop keys revoke ID`) and create new ones."
        )
    temporary = path.with_name(f"{SECRET_FILE}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(32))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(temporary, path)  # fails where another process was first; then theirs counts
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _insert(
    connection: Connection, secret: bytes, name: str, plaintext: str | None
) -> tuple[str, Key]:
    if not name.strip():
        raise InvalidRequest("The key's name is blank: give one, such as `laptop`.", param="name")
    active = sa.and_(table.c.name == name, table.c.revoked.is_(None))
    if connection.execute(sa.select(table.c.id).where(active)).first() is not None:
        raise InvalidRequest(
            f"An active key is named `{name}` already: choose another name.", param="name"
        )
    text = plaintext if plaintext is not None else "sk-" + secrets.token_urlsafe(36)
    if not re.fullmatch(r"[!-~](?:[ -~]*[!-~])?", text) or len(text) > 1024:
        raise InvalidRequest(
            "A key travels in a header: use 1 to 1024 printable ASCII characters, and no space at "
            "either end.",
            param="api_key",
        )
    digest = _digest(secret, text)
    if connection.execute(sa.select(table.c.id).where(table.c.digest == digest)).first():
        raise InvalidRequest(
            "This key is there already, perhaps revoked: choose another text.", param="api_key"
        )
    key = Key(
        id="key_" + secrets.token_hex(8),
        name=name,
        hint=f"{text[:3]}…{text[-4:]}" if len(text) >= 24 else "…",
        created=int(time.time()),
        revoked=None,
    )
    connection.execute(
        table.insert().values(
            id=key.id, name=key.name, digest=digest, hint=key.hint, created=key.created
        )
    )
    return text, key


def _digest(secret: bytes, plaintext: str) -> bytes:
    # surrogatepass: a header can carry bytes that are no text; they must fail, not crash
    return hmac.digest(secret, plaintext.encode("utf-8", "surrogatepass"), "sha256")


def _key(row: Row[tuple[object, ...]]) -> Key:
    return Key(id=row.id, name=row.name, hint=row.hint, created=row.created, revoked=row.revoked)


_cache: WeakKeyDictionary[Database, dict[bytes, tuple[float, Key]]] = WeakKeyDictionary()
_secrets: WeakKeyDictionary[Database, bytes] = WeakKeyDictionary()

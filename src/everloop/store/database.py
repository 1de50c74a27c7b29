"""One SQLite file per home, written by one connection at a time across all processes.

SQLite 3.7.0 to 3.51.2 (backports: 3.44.6, 3.50.7) can lose committed rows in WAL mode when two
connections write or checkpoint at once, and most systems still ship such a version. So whoever
writes, checkpoints or closes, in whatever process, first takes an exclusive `flock` on
`write.lock`: no two connections ever meet in the window of that defect. The server and a command
such as `everloop keys create` may therefore share a home, without a socket between them. Reads
take no lock.
"""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import QueuePool

from everloop.errors import EverloopError
from everloop.store.home import prepare

DATABASE_FILE = "everloop.db"
WRITE_LOCK_FILE = "write.lock"
WAIT_SECONDS = 10.0
MIGRATIONS = Path(__file__).parent / "migrations"


class DatabaseBusy(EverloopError):
    """Another process holds the database for longer than we wait."""

    status = 503
    exit_code = 75
    retry_after = 2.0


class DatabaseFailed(EverloopError):
    """The database can't be opened, read or written; nothing of the transaction is kept."""


class DiskFull(DatabaseFailed):
    """No space for a write; reads go on."""

    status = 507


class Database:
    """Opens `HOME/everloop.db`, bringing its schema up to date. Safe to share among threads.

    Raises DatabaseFailed if the schema is newer than this program, or the file isn't a database.
    """

    def __init__(self, home: Path) -> None:
        self.home = prepare(home)
        self.path = home / DATABASE_FILE
        self._mutex = threading.Lock()
        self._lock_file = os.open(
            home / WRITE_LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        self._writer = self._engine(writes=True)
        self._readers = self._engine(writes=False)
        try:
            with _plain_errors(self.path):
                self._open()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view; never waits for a writer."""
        with _plain_errors(self.path), self._readers.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: committed when the block ends, undone if it raises.

        Raises DatabaseBusy after WAIT_SECONDS, DiskFull, DatabaseFailed.
        """
        with self._exclusive(), _plain_errors(self.path), self._writer.begin() as connection:
            yield connection

    def close(self) -> None:
        """Idempotent. The last connection to close checkpoints, hence the lock."""
        if self._lock_file < 0:
            return
        try:
            with self._exclusive():
                self._readers.dispose()
                self._writer.dispose()
        finally:
            os.close(self._lock_file)
            self._lock_file = -1

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        deadline = time.monotonic() + WAIT_SECONDS
        if not self._mutex.acquire(timeout=WAIT_SECONDS):
            raise _busy(self.path)
        try:
            while True:
                try:
                    fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise _busy(self.path) from None
                    time.sleep(0.005)
            try:
                yield
            finally:
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)
        finally:
            self._mutex.release()

    def _engine(self, *, writes: bool) -> Engine:
        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False, timeout=WAIT_SECONDS
            )
            connection.execute("PRAGMA foreign_keys=ON")
            if writes:
                connection.execute("PRAGMA synchronous=FULL")  # keys and models: few, and precious
            else:
                connection.execute("PRAGMA query_only=ON")
                connection.execute("PRAGMA wal_autocheckpoint=0")
            return connection

        engine = sa.create_engine(
            "sqlite://",
            creator=connect,
            poolclass=QueuePool,
            pool_size=1 if writes else 8,
            max_overflow=0 if writes else 24,
        )

        # A deferred BEGIN that turns into a write fails at once when someone else wrote meanwhile,
        # whatever the busy timeout says; IMMEDIATE waits.
        @sa.event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

        return engine

    def _open(self) -> None:
        if self.path.exists() and self._version() == head():
            return
        with self._exclusive():
            with self._writer.connect() as connection:
                raw: Any = connection.connection.dbapi_connection
                raw.execute("PRAGMA journal_mode=WAL")
                os.chmod(self.path, 0o600)
            version = self._version()
            if version is not None and version > head():
                raise DatabaseFailed(
                    f"{self.path} was written by a newer Everloop (schema {version}, this program "
                    f"knows {head()}). Upgrade the program, or choose another home."
                )
            if version != head():
                with self._writer.begin() as connection:
                    _migrate(connection)

    def _version(self) -> str | None:
        with self._readers.begin() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def head() -> str:
    """The newest schema that this program knows: the last migration's number."""
    return max(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def _migrate(connection: Connection) -> None:
    # Imported here: most starts find the schema up to date and save these 100 ms.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def loses_rows(version: str) -> bool:
    """Whether this SQLite version has the WAL-reset defect that the write lock keeps away."""
    number = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if number[:2] in ((3, 44), (3, 50)):
        return number < {44: (3, 44, 6), 50: (3, 50, 7)}[number[1]]
    return (3, 7, 0) <= number < (3, 51, 3)


def _busy(path: Path) -> DatabaseBusy:
    return DatabaseBusy(
        f"{path} is being written by another process for over {WAIT_SECONDS:.0f} s. Try again."
    )


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    """SQLite's failures as errors that say what to do."""
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.DatabaseError, sqlite3.DatabaseError) as error:
        reason = str(getattr(error, "orig", None) or error)
        if isinstance(error, sa.exc.IntegrityError | sqlite3.IntegrityError):
            raise
        if "locked" in reason or "busy" in reason:
            raise _busy(path) from error
        if "full" in reason:
            raise DiskFull(f"No space left for {path}: nothing was written. Free some.") from error
        if "not a database" in reason or "malformed" in reason:
            raise DatabaseFailed(
                f"{path} is damaged ({reason}). Restore it from a backup, or move it away to begin "
                "with new keys; the models' files stay in place."
            ) from error
        raise DatabaseFailed(f"{path}: {reason}. Check the folder's owner and disk.") from error

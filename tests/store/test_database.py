from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from everloop.store import database
from everloop.store.database import Database, DatabaseBusy, DatabaseFailed, DiskFull
from everloop.store.tables import aliases, metadata

ADD = """
import sys
from pathlib import Path
import sqlalchemy as sa
from everloop.store.database import Database
from everloop.store.tables import aliases
home, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for i in range(count):
    db = Database(home)  # opened and closed each time: the window of the WAL-reset defect
    with db.write() as connection:
        connection.execute(aliases.insert().values(alias=f"{name}-{i}", target="default"))
    print(f"{name}-{i}", flush=True)
    db.close()
"""


def added(db: Database) -> set[str]:
    with db.read() as connection:
        rows = connection.execute(sa.select(aliases.c.alias).where(aliases.c.alias.like("added-%")))
        return set(rows.scalars())


def add(db: Database, name: str) -> None:
    with db.write() as connection:
        connection.execute(aliases.insert().values(alias=f"added-{name}", target="default"))


def test_the_newest_migration_makes_the_tables_that_the_program_uses(home: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == database.head()
    db = Database(home)
    with db.read() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == database.head()
        assert compare_metadata(context, metadata) == []
    db.close()


def test_opened_again_it_holds_what_was_written(home: Path) -> None:
    db = Database(home)
    add(db, "a")
    db.close()
    db.close()  # idempotent
    db = Database(home)
    assert added(db) == {"added-a"}
    db.close()


def test_only_the_owner_can_read_it(home: Path) -> None:
    Database(home).close()
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "everloop.db").stat().st_mode & 0o777 == 0o600


def test_a_failed_block_leaves_nothing(home: Path) -> None:
    db = Database(home)

    def fail() -> None:
        with db.write() as connection:
            connection.execute(aliases.insert().values(alias="added-a", target="default"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert added(db) == set()
    db.close()


def test_readers_cannot_write(home: Path) -> None:
    db = Database(home)
    with pytest.raises(DatabaseFailed), db.read() as connection:
        connection.execute(aliases.delete())
    db.close()


def test_a_newer_schema_is_refused_and_left_alone(home: Path) -> None:
    db = Database(home)
    with db.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    db.close()
    with pytest.raises(DatabaseFailed, match=r"newer Everloop \(schema 9999"):
        Database(home)


def test_a_file_that_is_no_database_is_named(home: Path) -> None:
    home.mkdir()
    (home / "everloop.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(DatabaseFailed, match=r"everloop\.db is damaged"):
        Database(home)


def test_a_full_disk_keeps_what_was_there(home: Path) -> None:
    db = Database(home)
    add(db, "a")

    def fill() -> None:
        with db.write() as connection:
            pages = connection.execute(sa.text("PRAGMA page_count")).scalar_one()
            connection.execute(sa.text(f"PRAGMA max_page_count={pages}"))
            rows = [{"alias": f"added-{i}" + "x" * 500, "target": "default"} for i in range(1000)]
            connection.execute(aliases.insert(), rows)

    with pytest.raises(DiskFull):
        fill()
    assert added(db) == {"added-a"}
    db.close()


def test_a_writer_waits_for_another_process_and_says_so_in_the_end(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT_SECONDS", 0.2)
    first, second = Database(home), Database(home)
    add(first, "a")
    with first.write(), pytest.raises(DatabaseBusy, match="Try again"):
        add(second, "b")
    assert added(second) == {"added-a"}  # reading never waits
    first.close()
    second.close()


def test_threads_of_one_process_take_turns(home: Path) -> None:
    db = Database(home)
    threads = [
        threading.Thread(target=lambda n=n: [add(db, f"{n}-{i}") for i in range(20)])
        for n in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(added(db)) == 100
    db.close()


def test_processes_that_open_write_and_close_at_once_lose_nothing(home: Path) -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", ADD, str(home), f"added-{n}", "25"])
        for n in range(3)
    ]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    db = Database(home)
    assert len(added(db)) == 75
    with db.read() as connection:
        assert connection.execute(sa.text("PRAGMA integrity_check")).scalar() == "ok"
    db.close()


def test_a_killed_writer_loses_nothing_that_it_acknowledged(home: Path) -> None:
    Database(home).close()
    child = subprocess.Popen(
        [sys.executable, "-c", ADD, str(home), "added", "100000"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    acknowledged = {child.stdout.readline().strip() for _ in range(40)}
    os.kill(child.pid, signal.SIGKILL)
    acknowledged |= set(child.stdout.read().split())
    child.wait(10)
    child.stdout.close()
    db = Database(home)
    assert acknowledged <= added(db)
    add(db, "after")  # the dead process's lock is gone
    db.close()


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ("3.6.23", False),
        ("3.7.0", True),
        ("3.40.1", True),
        ("3.44.5", True),
        ("3.44.6", False),
        ("3.45.0", True),
        ("3.50.6", True),
        ("3.50.7", False),
        ("3.51.2", True),
        ("3.51.3", False),
        ("3.54.1", False),
    ],
)
def test_versions_with_the_wal_reset_defect(version: str, affected: bool) -> None:
    assert database.loses_rows(version) == affected

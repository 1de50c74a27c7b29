from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everloop.errors import EverloopError, InvalidRequest, NotFound
from everloop.store import keys
from everloop.store.database import Database


@pytest.fixture
def db(home: Path) -> Iterator[Database]:
    db = Database(home)
    yield db
    db.close()


def test_a_key_is_shown_once_and_kept_nowhere(db: Database, home: Path) -> None:
    text, key = keys.create(db, "laptop")
    assert text.startswith("sk-")
    assert len(text) == 51
    assert keys.verify(db, text) == key
    db.close()
    for file in home.rglob("*"):
        if file.is_file():
            assert text.encode() not in file.read_bytes()
            assert text.encode()[3:30] not in file.read_bytes()
    assert text not in repr(key)


def test_the_whole_key_counts(db: Database) -> None:
    a, b = "sk-" + "a" * 20 + "1" * 20, "sk-" + "a" * 20 + "2" * 20
    _, first = keys.create(db, "first", plaintext=a)
    assert keys.verify(db, b) is None
    _, second = keys.create(db, "second", plaintext=b)
    assert keys.verify(db, a) == first
    assert keys.verify(db, b) == second
    assert keys.verify(db, a + " ") is None
    assert keys.verify(db, a[:-1]) is None
    assert keys.verify(db, "") is None


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.characters()) | st.sampled_from(["' OR 1=1 --", "%", "\0", "\ud800"]))
def test_no_text_is_a_key_or_an_error(db: Database, text: str) -> None:
    assert keys.verify(db, text) is None


def test_the_first_key_is_made_once(db: Database) -> None:
    made = keys.create_first(db, "My API Key")
    assert made is not None
    assert made[0] == "My API Key"
    assert keys.verify(db, "My API Key") == made[1]
    assert made[1].hint == "…"  # too short to show a part of
    assert keys.create_first(db, "another") is None
    keys.revoke(db, "first")
    assert keys.create_first(db) is None  # a home whose keys are all revoked is not new


@pytest.mark.parametrize("text", ["", " ", " padded", "padded ", "钥匙", "a\nb", "x" * 2000])
def test_a_key_that_no_header_can_carry_is_refused(db: Database, text: str) -> None:
    with pytest.raises(InvalidRequest, match="header"):
        keys.create(db, "a", plaintext=text)


def test_names_and_texts_are_taken_once(db: Database) -> None:
    text, key = keys.create(db, "laptop")
    with pytest.raises(InvalidRequest, match="`laptop` already"):
        keys.create(db, "laptop")
    with pytest.raises(InvalidRequest, match="there already"):
        keys.create(db, "other", plaintext=text)
    keys.revoke(db, key.id)
    keys.create(db, "laptop")
    with pytest.raises(InvalidRequest, match="perhaps revoked"):
        keys.create(db, "other", plaintext=text)
    with pytest.raises(InvalidRequest, match="blank"):
        keys.create(db, " ")


def test_a_revoked_key_ends(db: Database) -> None:
    text, key = keys.create(db, "laptop")
    assert keys.verify(db, text) == key
    gone = keys.revoke(db, "laptop")
    assert gone.revoked is not None
    assert keys.verify(db, text) is None
    assert [listed.revoked for listed in keys.list_keys(db)] == [gone.revoked]
    with pytest.raises(NotFound, match="everloop keys list"):
        keys.revoke(db, "laptop")


def test_another_process_creates_and_revokes(
    db: Database, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "everloop", "keys", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    text = run("create", "laptop")
    assert keys.verify(db, text) is not None  # at once
    run("revoke", "laptop")
    monkeypatch.setattr(keys, "FRESH_SECONDS", 0.0)  # as if the second had passed
    assert keys.verify(db, text) is None


def test_a_check_needs_no_database_while_it_is_fresh(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, key = keys.create(db, "laptop")
    monkeypatch.setattr(keys, "FRESH_SECONDS", 1000.0)
    assert keys.verify(db, text) == key
    monkeypatch.setattr(db, "read", None)
    assert keys.verify(db, text) == key


def test_the_secret_is_private_and_missed_when_gone(db: Database, home: Path) -> None:
    text, _ = keys.create(db, "laptop")
    path = home / "secret"
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    again = Database(home)
    with pytest.raises(EverloopError, match="secret is missing"):
        keys.verify(again, text)
    keys.revoke(again, "laptop")
    fresh, key = keys.create(again, "laptop")
    assert keys.verify(again, fresh) == key
    assert keys.verify(again, text) is None
    again.close()

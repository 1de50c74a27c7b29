from __future__ import annotations

import json
from pathlib import Path

from everloop.store import keys
from everloop.store.database import Database

from .conftest import Run


def test_create_prints_the_key_alone_for_a_script(run: Run, home: Path) -> None:
    result = run("keys", "create", "laptop")
    text = result.out.strip()
    assert text.startswith("sk-")
    assert "`laptop`" in result.err
    db = Database(home)
    assert keys.verify(db, text) is not None
    db.close()
    assert text not in run("keys", "list").out
    assert text not in run("keys", "list", "--json").out


def test_create_list_revoke(run: Run) -> None:
    made = json.loads(run("keys", "create", "laptop", "--key", "My API Key", "--json").out)
    assert (made["key"], made["name"], made["revoked"]) == ("My API Key", "laptop", None)
    assert run("keys", "revoke", made["id"]).code == 0
    (listed,) = json.loads(run("keys", "list", "--json").out)
    assert listed["id"] == made["id"]
    assert listed["revoked"] is not None
    assert "key" not in listed
    assert run("keys", "create", "laptop", "--key", "My API Key").code == 2


def test_the_home_is_a_flag(run: Run, home: Path, tmp_path: Path) -> None:
    run("keys", "create", "laptop", "--home", str(tmp_path / "other"))
    assert not home.exists()
    assert (tmp_path / "other" / "everloop.db").exists()

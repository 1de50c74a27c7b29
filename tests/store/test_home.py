from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from everloop.errors import InvalidRequest
from everloop.store.home import HomeInUse, prepare, server_lock, serving_pid

HOLD = """
import sys
from pathlib import Path
from everloop.store.home import server_lock
with server_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_server_is_told_who_is_there(home: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert serving_pid(home) == child.pid
        with pytest.raises(HomeInUse, match=rf"pid {child.pid}\b"), server_lock(home):
            pass
        os.kill(child.pid, signal.SIGKILL)
    assert serving_pid(home) is None
    with server_lock(home):  # a killed server leaves nothing to clean up
        assert serving_pid(home) == os.getpid()
    assert serving_pid(home) is None


def test_a_home_that_cannot_be_made_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match="EVERLOOP_HOME"):
        prepare(tmp_path / "file" / "home")

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from .terminal import ROOT, terminal

CHAT = ("-m", "tests.cli.scripted_chat")


def chat(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return subprocess.run(
        [sys.executable, *CHAT, *arguments],
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=60,
    )


def test_one_question() -> None:
    done = chat("say:今天天气很好")
    assert (done.returncode, done.stdout, done.stderr) == (0, "今天天气很好\n", "")
    words = chat("say:two", "words")
    assert words.stdout == "two words\n"


def test_standard_input_is_the_question_or_a_part_of_it() -> None:
    assert chat(text="say:from a pipe\n").stdout == "from a pipe\n"
    assert chat("ask\n", "-", text="say:the pipe").stdout == "the pipe\n"
    empty = chat(text="  \n")
    assert (empty.returncode, empty.stdout) == (2, "")
    assert "question is empty" in empty.stderr


def test_json_for_scripts() -> None:
    done = chat("--json", "--system", "be brief", "say:all")
    assert json.loads(done.stdout) == {
        "model": "tiny",
        "answer": "system=be brief|user=say:all",
        "prompt_tokens": len("be brief\nsay:all"),
        "completion_tokens": len("system=be brief|user=say:all"),
    }
    assert chat("--json", text="").returncode == 2


def test_an_error_ends_one_question_with_its_code() -> None:
    down = chat("refuse:down")
    assert (down.returncode, down.stdout) == (5, "")
    assert down.stderr == "error: The engine is being restarted.\n"
    assert chat("x" * 1000).returncode == 2


def test_a_conversation(home: Path) -> None:
    with terminal(*CHAT) as screen:
        screen.wait_for(">>> ")
        screen.type("say:one\n")
        screen.wait_for("\r\none\r\n")
        screen.wait_for(">>> ")
        screen.type("say:all\n")
        screen.wait_for("user=say:one|assistant=one|user=say:all\r\n")
        screen.wait_for(">>> ")
        screen.type("/system 简短回答\n")
        screen.wait_for("(system: 简短回答)")
        screen.type("/reset\n")
        screen.wait_for("(a new conversation)")
        screen.type("say:all\n")
        screen.wait_for("system=简短回答|user=say:all\r\n")
        screen.type("refuse:full\n")
        screen.wait_for("error: The queue is full.")
        screen.type("/nonsense\n")
        screen.wait_for("No command /nonsense.")
        screen.type("x" * 300 + "\n")
        screen.wait_for("/reset begins a new conversation.")
        screen.type("\x04")  # Ctrl-D
        assert screen.end() == 0


def test_exit_leaves() -> None:
    with terminal(*CHAT) as screen:
        screen.wait_for(">>> ")
        screen.type("/exit\n")
        assert screen.end() == 0


def test_ctrl_c_stops_the_answer_and_keeps_what_had_come() -> None:
    with terminal(*CHAT) as screen:
        screen.wait_for(">>> ")
        screen.type("slow:100\n")
        screen.wait_for("\r\nxxxxx")
        screen.interrupt()
        screen.wait_for("(stopped)")
        screen.wait_for(">>> ")
        screen.type("say:all\n")
        assert "x" * 100 not in screen.wait_for("|user=say:all\r\n")
        assert "user=slow:100|assistant=xxxxx" in screen.seen
        screen.wait_for(">>> ")
        screen.interrupt()
        screen.wait_for("(Ctrl-D leaves)")
        screen.type("\x04")
        assert screen.end() == 0


def test_ctrl_c_ends_one_question() -> None:
    process = subprocess.Popen(
        [sys.executable, *CHAT, "slow:190"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
    )
    assert process.stdout is not None
    assert process.stdout.read(3) == b"xxx"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"")
    assert len(out) < 187

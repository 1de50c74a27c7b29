from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.server.process import KEY, environment, scripted

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


def test_a_conversation() -> None:
    talk = [
        ("say:one", "\r\none\r\n"),
        ("say:all", "user=say:one|assistant=one|user=say:all\r\n"),
        ("/system 简短回答", "(system: 简短回答)"),
        ("/reset", "(a new conversation)"),
        ("say:all", "\r\nsystem=简短回答|user=say:all\r\n"),
        ("refuse:full", "error: The queue is full."),
        ("/nonsense", "No command /nonsense."),
        ("x" * 300, "/reset begins a new conversation."),
    ]
    with terminal(*CHAT) as screen:
        screen.wait_for(">>> ")
        for typed, answer in talk:
            screen.type(typed + "\n")
            screen.wait_for(answer)
            screen.wait_for(">>> ")
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
        shown = screen.wait_for("|user=say:all\r\n")
        assert "user=slow:100|assistant=xxxxx" in shown
        assert "x" * 100 not in shown
        screen.wait_for(">>> ")
        screen.interrupt_until("(Ctrl-D leaves)")
        screen.wait_for(">>> ")
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


def test_a_server_answers_for_url(tmp_path: Path) -> None:
    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "everloop", "chat", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, env=environment(), cwd=tmp_path, timeout=60
        )

    home = f"--home={tmp_path / 'mine'}"
    with scripted(tmp_path) as server:
        url = f"--url={server.url}/v1"
        done = ask(home, url, f"--key={KEY}", "--model=tiny", "say:over the wire")
        assert (done.returncode, done.stdout) == (0, "over the wire\n"), done.stderr
        wrong = ask(home, url, "--key=wrong", "--model=tiny", "say:x")
        assert (wrong.returncode, wrong.stdout) == (4, "")
        assert "check remote_key (or --key)" in wrong.stderr
    assert ask(home, "--url=nonsense", "x").stderr.startswith(
        "error: Setting `remote_url` is 'nonsense' (from flag --url)"
    )

"""A worker of the native engine that computes nothing: tokens come by the clock.

Speaks the engine's own messages, so that the server's side of them is measured as it is. Every
`EVERLOOP_BENCH_STEP_MS` each running request gets `EVERLOOP_BENCH_BURST` tokens, as from an engine
that makes so many between two messages.
"""

from __future__ import annotations

import os
import socket
import sys
import time

from everloop.engine.native.frames import Channel, Message

TEXT = "天"


class Answer:
    """One request on its way."""

    def __init__(self, message: Message) -> None:
        self.key, self.prompt = message["key"], len(message["prompt"])
        self.left = self.wanted = message["max_tokens"]
        self.stream = message["stream"]

    def events(self, burst: int) -> list[Message]:
        """The next tokens, an event for each."""
        count = min(burst, self.left)
        self.left -= count
        if self.stream:
            events: list[Message] = [self.event(1) for _ in range(count)]
        else:
            events = [] if self.left else [self.event(self.wanted)]
        if not self.left:
            events[-1] |= {"finish": "length", "usage": self.usage()}
        return events

    def event(self, count: int) -> Message:
        return {"key": self.key, "text": TEXT * count, "count": count}

    def usage(self) -> tuple[int, int, int]:
        return self.prompt, self.wanted - self.left, 0


def main(descriptor: int) -> None:
    step = float(os.environ["EVERLOOP_BENCH_STEP_MS"]) / 1000
    burst = int(os.environ["EVERLOOP_BENCH_BURST"])
    channel = Channel(socket.socket(fileno=descriptor))
    channel.receive(30.0)
    ready = {"context_length": 4096, "kv_blocks": 1, "note": ""}
    ready["note"] = ""
    channel.send({"ready": ready})
    running: dict[int, Answer] = {}
    due = time.monotonic()
    while not channel.closed:
        for message in channel.receive(max(due - time.monotonic(), 0.0) if running else 0.5):
            if message["op"] == "generate":
                running[message["key"]] = Answer(message)
            elif message["op"] == "cancel":
                gone = running.pop(message["key"], None)
                usage = gone and gone.usage()
                channel.send(
                    {"cancelled": message["key"], "usage": usage, "status": status(running)}
                )
        now = time.monotonic()
        if running and now < due:
            continue
        due = max(due + step, now)
        events = [event for answer in running.values() for event in answer.events(burst)]
        running = {key: answer for key, answer in running.items() if answer.left}
        channel.send({"events": events, "status": status(running)})


def status(running: dict[int, Answer]) -> list[int]:
    return [len(running), 0, 0, 1]


if __name__ == "__main__":
    main(int(sys.argv[1]))

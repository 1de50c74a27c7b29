"""Messages between the two processes arrive whole, however the bytes are cut."""

from __future__ import annotations

import socket
import threading

from hypothesis import given
from hypothesis import strategies as st

from everloop.engine.native.frames import Channel, Message, Unpacker, pack

MESSAGES = st.lists(
    st.dictionaries(st.text(max_size=5), st.integers(0, 2**40) | st.text(max_size=40), max_size=4),
    max_size=8,
)


@given(MESSAGES, st.data())
def test_any_cut_gives_the_same_messages(messages: list[Message], data: st.DataObject) -> None:
    whole = b"".join(map(pack, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    unpacker, found = Unpacker(), []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found += unpacker.feed(whole[start:end])
    assert found == messages


def test_a_channel_carries_a_message_larger_than_the_sockets_buffers() -> None:
    ours, theirs = socket.socketpair()
    left, right = Channel(ours), Channel(theirs)
    large = {"prompt": list(range(300_000))}
    sending = threading.Thread(target=lambda: (left.send(large), left.send({"op": "end"})))
    sending.start()
    found = right.receive(5.0)
    while {"op": "end"} not in found:
        found += right.receive(5.0)
    sending.join()
    assert found == [large, {"op": "end"}]
    ours.close()
    assert right.receive(5.0) == []
    assert right.closed
    right.send({"lost": 1})  # nobody is there: no error
    theirs.close()

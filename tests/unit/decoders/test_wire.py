from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.decoders.wire import MAX_PAYLOAD_BYTES, POSTED_BYTES, Kind, Wire, WireError

Pair = tuple[Wire, Wire]


@pytest.fixture
def pair() -> Iterator[Pair]:
    wires = tuple(map(Wire, socket.socketpair()))
    yield wires[0], wires[1]
    for wire in wires:
        wire.close()


def test_what_is_posted_comes_with_the_next_message_that_is_sent_and_in_order(pair: Pair) -> None:
    ours, theirs = pair
    theirs.post(Kind.OPENED, b"{}")
    theirs.post(Kind.BLOCK, b"head", b"samples")
    with pytest.raises(TimeoutError):
        ours.receive(0.01)
    theirs.send(Kind.DONE)
    assert [ours.receive(30.0) for _ in range(3)] == [(Kind.OPENED, b"{}"), (Kind.BLOCK, b"headsamples"), (Kind.DONE, b"")]


def test_what_is_posted_is_sent_when_there_is_enough_of_it(pair: Pair) -> None:
    ours, theirs = pair
    block = os.urandom(POSTED_BYTES // 4)
    poster = threading.Thread(target=lambda: [theirs.post(Kind.BLOCK, block) for _ in range(4)])
    poster.start()
    assert [ours.receive(30.0) for _ in range(4)] == [(Kind.BLOCK, block)] * 4
    poster.join()


def test_what_was_posted_some_time_ago_is_sent_with_the_next_that_is_posted(pair: Pair) -> None:
    ours, theirs = pair
    theirs.post(Kind.OPENED, b"{}")
    for _ in range(3000):
        try:
            assert ours.receive(0.01) == (Kind.OPENED, b"{}")
            return
        except TimeoutError:
            theirs.post(Kind.BLOCK, b"")
    raise AssertionError("nothing was sent")


def test_a_message_that_cannot_be_put_together_leaves_nothing_behind(pair: Pair) -> None:
    ours, theirs = pair
    with pytest.raises(TypeError):
        theirs.post(Kind.BLOCK, memoryview(b"abcd")[::2])
    theirs.send(Kind.FAILED, b"{}")
    assert ours.receive(30.0) == (Kind.FAILED, b"{}")


def test_a_message_may_be_as_large_as_messages_are_and_no_larger(pair: Pair) -> None:
    ours, theirs = pair
    largest = os.urandom(MAX_PAYLOAD_BYTES)

    def send() -> None:
        theirs.send(Kind.BLOCK, largest)
        with contextlib.suppress(OSError):  # it is not taken any more
            theirs.send(Kind.BLOCK, largest + b"x")

    sender = threading.Thread(target=send)
    sender.start()
    assert ours.receive(30.0) == (Kind.BLOCK, largest)
    with pytest.raises(WireError, match=f"{MAX_PAYLOAD_BYTES + 1} bytes"):
        ours.receive(30.0)
    ours.shut_down()
    sender.join()


def test_what_comes_with_a_job_is_not_lost(pair: Pair) -> None:
    ours, theirs = pair
    with Path(os.devnull).open("rb") as file:
        ours.send(Kind.FILE, b"job", fd=file.fileno())
        ours.send(Kind.DATA, b"more")
        kind, payload, fd = theirs.receive_job()
        assert (kind, payload) == (Kind.FILE, b"job")
        assert fd is not None
        assert os.path.sameopenfile(fd, file.fileno())
        os.close(fd)
    assert theirs.receive() == (Kind.DATA, b"more")


def test_time_is_up_also_in_the_middle_of_a_message_that_comes_byte_by_byte(pair: Pair) -> None:
    ours, theirs = pair
    stopped = threading.Event()

    def trickle() -> None:
        while not stopped.wait(0.001):
            theirs._socket.sendall(b"\x06")

    trickler = threading.Thread(target=trickle)
    theirs._socket.sendall(bytes([Kind.BLOCK]) + (1_000_000).to_bytes(4, "little"))
    trickler.start()
    with pytest.raises(TimeoutError):
        ours.receive(0.1)
    stopped.set()
    trickler.join()


def test_the_end_is_seen(pair: Pair) -> None:
    ours, theirs = pair
    theirs.post(Kind.OPENED, b"{}")
    theirs.close()
    with pytest.raises(EOFError):
        ours.receive(30.0)

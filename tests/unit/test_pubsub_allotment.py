"""The budget of a stream."""

from __future__ import annotations

import pytest

from transports.pubsub.receiving.allotment import Allotment


class Stream:
    """Counts how often another one was asked for; `free` are the slots of its channel."""

    def __init__(self, size: int, free: int = 0) -> None:
        self.free = free
        self.renewed = 0
        self.allotment = Allotment(size, renew=self._renew, free=lambda: self.free)

    def _renew(self) -> None:
        self.renewed += 1


def test_a_server_that_sends_more_than_it_was_told_does_not_count() -> None:
    allotment = Stream(2).allotment
    allotment.receive(2)
    assert allotment.is_full
    assert not allotment.is_exceeded
    allotment.settle()
    assert not allotment.is_full
    allotment.receive(2)
    assert allotment.is_exceeded


def test_a_stream_that_is_large_enough_stays() -> None:
    stream = Stream(3, free=3)
    stream.allotment.receive(3)
    for _ in range(3):
        stream.allotment.settle()
    assert stream.renewed == 0


def test_a_stream_that_has_become_too_small_is_renewed_once_it_is_idle() -> None:
    stream = Stream(2, free=5)
    stream.allotment.receive(2)
    stream.allotment.settle()
    assert stream.renewed == 0
    stream.allotment.settle()
    assert stream.renewed == 1


@pytest.mark.parametrize(("size", "put_off"), [(1, 1), (2, 1), (10, 5)])
def test_what_is_put_off_uses_the_budget_up(size: int, put_off: int) -> None:
    stream = Stream(size)
    stream.allotment.receive(size)
    for _ in range(put_off - 1):
        stream.allotment.spend()
    assert stream.renewed == 0
    stream.allotment.spend()
    assert stream.renewed == 1

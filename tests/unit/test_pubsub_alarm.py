"""Calls at a given time."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator

import pytest

from transports.pubsub.receiving.alarm import Alarm


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    found = Alarm()
    yield found
    found.close()


def test_calls_come_in_the_order_of_their_times_and_never_early(alarm: Alarm) -> None:
    called: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()
    due: dict[str, float] = {}
    with alarm._changed:  # nothing is called before all is asked for, however long this thread is kept from it
        for name, seconds in (("last", 0.3), ("first", 0.1), ("middle", 0.2)):
            due[name] = time.monotonic() + seconds
            alarm.call_in(seconds, lambda name=name: called.put((name, time.monotonic())))  # type: ignore[misc]
    found = [called.get(timeout=30) for _ in range(3)]
    assert [name for name, _ in found] == sorted(due, key=lambda name: due[name])
    assert all(at >= due[name] for name, at in found)


def test_what_is_due_is_called_at_once(alarm: Alarm) -> None:
    called = threading.Event()
    alarm.call_in(60, lambda: None)
    alarm.call_in(-1, called.set)
    assert called.wait(10)


def test_one_that_fails_does_not_keep_the_others(alarm: Alarm, caplog: pytest.LogCaptureFixture) -> None:
    called = threading.Event()
    with caplog.at_level(logging.ERROR, "transports"):
        alarm.call_in(0, lambda: 1 / 0)
        alarm.call_in(0, called.set)
        assert called.wait(10)
    assert "ZeroDivisionError" in caplog.text


def test_after_closing_nothing_is_called_and_no_thread_is_left() -> None:
    before = set(threading.enumerate())
    alarm, called = Alarm(), threading.Event()
    alarm.call_in(30, called.set)
    alarm.call_in(60, called.set)
    (thread,) = (each for each in set(threading.enumerate()) - before if each.name == "pubsub-alarm")
    alarm.close()
    thread.join(10)
    assert not thread.is_alive()
    assert not called.is_set()


def test_no_thread_is_started_before_it_is_needed() -> None:
    before = set(threading.enumerate())
    Alarm().close()
    assert not [each for each in set(threading.enumerate()) - before if each.name == "pubsub-alarm"]

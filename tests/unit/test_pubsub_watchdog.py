"""The watchdog of streams, on a server that can be told how to answer."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Iterator
from typing import Any

import pytest

from transports.errors import NotAuthenticated, ServerUnavailable
from transports.pubsub.options import Options
from transports.pubsub.receiving.watchdog import Watchdog

LIMIT = 30.0


class MemoryStream:
    """A stream that is open and remembers how it was ended."""

    def __init__(self, events: queue.SimpleQueue[str], age_seconds: float) -> None:
        self._events = events
        self.opened_at: float | None = time.monotonic() - age_seconds

    def finish(self) -> None:
        self._events.put("finish")

    def cancel(self) -> None:
        self._events.put("cancel")


class MemoryClient:
    """Answers a probe as it is told, and writes down what was asked of it."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.swept: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.answer: Exception | None = None
        self.streams: list[MemoryStream] = []

    @property
    def calls(self) -> MemoryClient:
        return self

    def open(self, age_seconds: float = 0.0) -> None:
        self.streams = [MemoryStream(self.events, age_seconds)]

    def probe(self) -> None:
        self.events.put("probe")
        if self.answer is not None:
            raise self.answer

    def close(self) -> None:
        self.events.put("close")
        self.streams = []

    def next_events(self, count: int) -> list[str]:
        return [self.events.get(timeout=LIMIT) for _ in range(count)]


@pytest.fixture
def client() -> MemoryClient:
    return MemoryClient()


@pytest.fixture
def watchdog(client: Any) -> Iterator[Watchdog]:
    options = Options(watchdog_seconds=0.02, stream_lifetime_seconds=100)
    found = Watchdog(client, options, sweep=lambda: client.swept.put("sweep"))
    yield found
    found.close()


def test_a_server_that_answers_is_asked_again_and_left_alone(client: MemoryClient, watchdog: Watchdog) -> None:
    client.open()
    watchdog.start()
    watchdog.start()
    assert client.next_events(3) == ["probe"] * 3


def test_a_server_that_does_not_answer_has_its_connection_cut_once(
    client: MemoryClient, watchdog: Watchdog, caplog: pytest.LogCaptureFixture
) -> None:
    client.open()
    client.answer = ServerUnavailable("silence")
    with caplog.at_level(logging.WARNING, "transports"):
        watchdog.start()
        assert client.next_events(2) == ["probe", "close"]
    assert "silence" in caplog.text


def test_a_server_that_refuses_us_has_its_streams_cut(client: MemoryClient, watchdog: Watchdog) -> None:
    client.open()
    client.answer = NotAuthenticated("revoked")
    watchdog.start()
    assert client.next_events(2) == ["probe", "cancel"]


def test_at_the_first_look_what_killed_processes_left_is_swept_once(client: MemoryClient, watchdog: Watchdog) -> None:
    client.open()
    watchdog.start()
    assert client.swept.get(timeout=LIMIT) == "sweep"
    client.next_events(3)
    assert client.swept.empty()


def test_an_old_stream_is_ended_and_a_young_one_is_not(client: MemoryClient, watchdog: Watchdog) -> None:
    client.open(age_seconds=101)
    watchdog.start()
    assert client.next_events(2) == ["finish", "probe"]


def test_a_stream_that_is_not_open_yet_has_no_age(client: MemoryClient, watchdog: Watchdog) -> None:
    client.open()
    client.streams[0].opened_at = None
    watchdog.start()
    assert client.next_events(2) == ["probe"] * 2


def test_an_error_of_its_own_does_not_end_it(
    client: MemoryClient, watchdog: Watchdog, caplog: pytest.LogCaptureFixture
) -> None:
    client.open()
    client.answer = ZeroDivisionError()
    with caplog.at_level(logging.ERROR, "transports"):
        watchdog.start()
        assert client.next_events(2) == ["probe"] * 2
    assert "goes on" in caplog.text


def test_without_streams_nobody_is_asked(client: MemoryClient, watchdog: Watchdog) -> None:
    watchdog.start()
    with pytest.raises(queue.Empty):
        client.events.get(timeout=0.3)


def test_one_that_was_closed_does_not_start(client: MemoryClient, watchdog: Watchdog) -> None:
    client.open()
    watchdog.close()
    watchdog.start()
    with pytest.raises(queue.Empty):
        client.events.get(timeout=0.3)

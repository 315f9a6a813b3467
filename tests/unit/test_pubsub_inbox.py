"""Slots and inbox: what stands between reader threads and the thread that consumes."""

from __future__ import annotations

import select
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from transports.errors import ServerUnavailable
from transports.pubsub.leases.ledger import Lease
from transports.pubsub.receiving.inbox import Delivery, Inbox
from transports.pubsub.receiving.parcel import Parcel
from transports.pubsub.receiving.prefetch import Prefetch
from transports.pubsub.server.messages import Received
from transports.pubsub.server.stream import Requests


def delivery(consumer: Any, name: str = "m", priority: int = 0) -> Delivery:
    return Delivery(consumer, Parcel(Received(name, "a", b""), Lease("s", name, "a", 0, 0, 0), {}), priority)


def readable(inbox: Inbox) -> bool:
    return bool(select.select([inbox], [], [], 0)[0])


@pytest.fixture
def consumer() -> SimpleNamespace:
    return SimpleNamespace(active=True)


class TestInbox:
    def test_it_is_readable_exactly_while_there_is_something(self, consumer: SimpleNamespace) -> None:
        inbox = Inbox()
        assert not readable(inbox)
        first, second = delivery(consumer, "1"), delivery(consumer, "2")
        assert inbox.put(first)
        assert inbox.put(second)
        assert inbox.pop() is first
        assert readable(inbox)
        assert inbox.pop() is second
        assert not readable(inbox)
        assert inbox.pop() is None
        inbox.close()

    def test_it_is_quiet_when_all_it_held_was_cancelled(self, consumer: SimpleNamespace) -> None:
        inbox = Inbox()
        waiting = delivery(consumer)
        inbox.put(waiting)
        assert inbox.cancel(consumer) == [waiting]
        assert not readable(inbox)
        inbox.close()

    def test_an_error_is_raised_once_and_first(self, consumer: SimpleNamespace) -> None:
        inbox = Inbox()
        first = delivery(consumer)
        inbox.put(first)
        inbox.fail(ServerUnavailable("gone"))
        with pytest.raises(ServerUnavailable, match="gone"):
            inbox.pop()
        assert inbox.pop() is first
        assert inbox.pop() is None
        inbox.close()

    def test_higher_priorities_come_first_and_equal_ones_in_order(self, consumer: SimpleNamespace) -> None:
        inbox = Inbox()
        for name, priority in [("a", 0), ("b", 9), ("c", 0), ("d", 3), ("e", 9)]:
            inbox.put(delivery(consumer, name, priority))
        found = iter(inbox.pop, None)
        assert "".join(each.parcel.received.message_id for each in found) == "bedac"
        inbox.close()

    def test_a_cancelled_consumer_gets_nothing_more_and_others_theirs(self, consumer: SimpleNamespace) -> None:
        inbox = Inbox()
        other = SimpleNamespace(active=True)
        mine, theirs = delivery(consumer), delivery(other)
        inbox.put(mine)
        inbox.put(theirs)
        assert inbox.cancel(consumer) == [mine]  # type: ignore[arg-type]
        assert not inbox.put(delivery(consumer))
        assert inbox.pop() is theirs
        inbox.close()

    def test_waiting_ends_when_something_comes(self, consumer: SimpleNamespace) -> None:
        inbox = Inbox()
        assert not inbox.wait(0)
        thread = threading.Thread(target=inbox.put, args=(delivery(consumer),))
        thread.start()
        assert inbox.wait(10)
        thread.join()
        inbox.close()

    def test_closing_twice_is_once(self, consumer: SimpleNamespace) -> None:
        inbox = Inbox()
        inbox.put(delivery(consumer))
        inbox.close()
        inbox.close()
        assert inbox.pop() is None
        assert not inbox.put(delivery(consumer))


class TestPrefetch:
    def test_no_more_slots_than_the_limit(self) -> None:
        full = []
        prefetch = Prefetch(ceiling=10, on_full=lambda: full.append(True))
        prefetch.set_limit(2)
        full.clear()
        assert [prefetch.take() for _ in range(3)] == [True, True, False]
        assert full == [True]
        prefetch.release()
        assert prefetch.can_consume()
        assert prefetch.take()

    def test_without_a_limit_the_ceiling_counts(self) -> None:
        prefetch = Prefetch(ceiling=3, on_full=lambda: None)
        assert prefetch.free == 3

    def test_a_lower_limit_takes_nothing_away_but_gives_nothing_either(self) -> None:
        prefetch = Prefetch(ceiling=10, on_full=lambda: None)
        assert prefetch.take()
        assert prefetch.take()
        prefetch.set_limit(1)
        assert prefetch.free == 0
        prefetch.release()
        assert not prefetch.can_consume()

    def test_who_waits_for_room_is_told_how_much(self) -> None:
        prefetch = Prefetch(ceiling=10, on_full=lambda: None)
        prefetch.set_limit(1)
        prefetch.take()
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(prefetch.wait_for_room(unless=lambda: False)))
        thread.start()
        prefetch.release()
        thread.join(10)
        assert found == [1]

    def test_closing_sends_away_who_waits(self) -> None:
        prefetch = Prefetch(ceiling=10, on_full=lambda: None)
        prefetch.close()
        assert prefetch.wait_for_room(unless=lambda: False) == 0
        assert not prefetch.take()


def test_a_stream_begins_with_its_request_and_then_gives_signs_of_life() -> None:
    requests = Requests({"subscription": "s"}, heartbeat_seconds=0.01)
    assert [next(requests), next(requests), next(requests)] == [{"subscription": "s"}, {}, {}]
    requests.end()
    assert list(requests) == []

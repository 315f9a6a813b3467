"""Slots among readers of different priority: the higher one comes first, and nobody waits for ever."""

from __future__ import annotations

import queue
import threading
import time

import pytest

from transports.pubsub.receiving.prefetch import Prefetch

#: Long enough to see who waits.
SETTLE = 0.3
#: Long enough for others to come meanwhile, on a busy machine too.
LONG = 2.0
#: Longer than anything here may take: nobody waits for its end.
ENDLESS = 120.0
#: Seconds for what must come.
LIMIT = 60.0
LOW, HIGH = object(), object()


@pytest.fixture
def prefetch(request: pytest.FixtureRequest) -> Prefetch:
    """One slot, and two readers whose streams are not open; as a parameter how long the higher is waited for."""
    found = Prefetch(ceiling=10, on_full=lambda: None, settle_seconds=getattr(request, "param", ENDLESS))
    found.set_limit(1)
    found.join(LOW, 0)
    found.join(HIGH, 9)
    return found


class Taking:
    """A thread that wants a slot."""

    def __init__(self, prefetch: Prefetch, priority: int) -> None:
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.began = time.monotonic()
        self.ended = 0.0
        threading.Thread(target=self._take, args=(prefetch, priority), daemon=True).start()

    def answer(self) -> bool:
        return self._answers.get(timeout=LIMIT)

    def _take(self, prefetch: Prefetch, priority: int) -> None:
        taken = prefetch.take(priority)
        self.ended = time.monotonic()
        self._answers.put(taken)


def settling(seconds: float) -> pytest.MarkDecorator:
    """Have the higher priority waited for so long."""
    return pytest.mark.parametrize("prefetch", [seconds], indirect=True)


@settling(SETTLE)
def test_a_lower_priority_waits_until_the_higher_had_its_chance(prefetch: Prefetch) -> None:
    prefetch.opened(LOW)
    opened_at = time.monotonic()
    prefetch.opened(HIGH)
    low = Taking(prefetch, 0)
    assert low.answer()
    assert low.ended >= opened_at + SETTLE


def test_a_higher_priority_that_comes_meanwhile_gets_the_slot(prefetch: Prefetch) -> None:
    prefetch.opened(LOW)
    prefetch.opened(HIGH)
    low = Taking(prefetch, 0)
    assert prefetch.take(9)
    assert not low.answer()


def test_the_highest_priority_waits_for_nobody(prefetch: Prefetch) -> None:
    prefetch.opened(LOW)
    prefetch.opened(HIGH)
    assert Taking(prefetch, 9).answer()


def test_equal_priorities_do_not_wait_for_each_other(prefetch: Prefetch) -> None:
    prefetch.leave(HIGH)
    prefetch.join(object(), 0)
    assert Taking(prefetch, 0).answer()


@settling(LONG)
def test_a_stream_that_has_long_been_open_holds_up_nobody(prefetch: Prefetch) -> None:
    prefetch.set_limit(2)
    prefetch.opened(HIGH)
    assert Taking(prefetch, 0).answer()
    began = time.monotonic()
    assert prefetch.take(0)
    assert time.monotonic() - began < LONG


@settling(SETTLE)
def test_a_higher_stream_that_never_opens_delays_the_lower_by_a_limited_time(prefetch: Prefetch) -> None:
    low = Taking(prefetch, 0)
    assert low.answer()
    assert SETTLE * 2 <= low.ended - low.began < LIMIT


def test_a_higher_reader_that_leaves_sets_the_lower_free(prefetch: Prefetch) -> None:
    low = Taking(prefetch, 0)
    prefetch.leave(HIGH)
    assert low.answer()


def test_closing_sends_away_who_waits_for_a_higher_priority(prefetch: Prefetch) -> None:
    low = Taking(prefetch, 0)
    prefetch.close()
    assert not low.answer()


def test_without_a_free_slot_nobody_waits_at_all(prefetch: Prefetch) -> None:
    assert prefetch.take(9)
    assert not Taking(prefetch, 0).answer()


def test_many_threads_never_take_more_than_there_are(prefetch: Prefetch) -> None:
    prefetch.set_limit(3)
    takers = [Taking(prefetch, 9) for _ in range(20)]
    assert sum(taker.answer() for taker in takers) == 3


@settling(LONG)
def test_of_those_who_wait_the_highest_goes_first(prefetch: Prefetch) -> None:
    middle = object()
    prefetch.join(middle, 3)
    for reader in (LOW, middle, HIGH):
        prefetch.opened(reader)
    low, between = Taking(prefetch, 0), Taking(prefetch, 3)
    assert between.answer()
    assert not low.answer()


@settling(SETTLE)
def test_who_gives_up_waiting_holds_up_nobody(prefetch: Prefetch) -> None:
    prefetch.set_limit(2)
    low, high = Taking(prefetch, 0), Taking(prefetch, 9)
    assert high.answer()
    assert low.answer()


@settling(LONG)
def test_streams_of_the_time_before_all_slots_were_taken_do_not_count_as_open(prefetch: Prefetch) -> None:
    prefetch.opened(HIGH)
    assert Taking(prefetch, 0).answer()
    prefetch.release()
    low = Taking(prefetch, 0)
    assert prefetch.take(9)
    assert not low.answer()

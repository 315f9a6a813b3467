"""A long backlog: most of it stays on disk, and nothing is lost, doubled or out of order because of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from backlog_bench import FIRST_TOKEN, Shelf, all_tokens, empty_backlog, lease, pending, stored_backlog, take
from hypothesis import given
from hypothesis import strategies as st

from transports.local.dispatch.backlog import PAGE_MESSAGES, Backlog, Policy
from transports.local.dispatch.ordering import LINE_MESSAGES
from transports.local.model import Pending
from transports.local.storage.reading import Tally

MANY = 5 * PAGE_MESSAGES


@pytest.fixture
def tokens() -> Iterator[int]:
    return all_tokens()


def test_a_start_reads_nothing(tokens: Iterator[int]) -> None:
    shelf = Shelf(*map(pending, range(1, MANY + 1)))
    backlog = Backlog(shelf, first_token=FIRST_TOKEN, tally=shelf.tally())
    assert (len(backlog), backlog.ready, backlog.in_memory, shelf.reads) == (MANY, MANY, 0, 0)


def test_a_long_backlog_comes_in_order_and_little_of_it_is_in_memory(tokens: Iterator[int]) -> None:
    backlog = stored_backlog(*map(pending, range(1, MANY + 1)))
    seen: list[int] = []
    while taken := backlog.take(lease(messages=100), tokens):
        seen += [each.message_id for each in taken]
        assert backlog.in_memory <= PAGE_MESSAGES + 100
        for each in taken:
            backlog.settle(each.message_id, each.token)
    assert seen == list(range(1, MANY + 1))
    assert len(backlog) == 0


def test_what_is_published_to_a_long_backlog_stays_on_disk(tokens: Iterator[int]) -> None:
    shelf = Shelf()
    backlog = Backlog(shelf, first_token=FIRST_TOKEN)
    for number in range(1, MANY + 1):
        shelf.messages[number] = pending(number)
        backlog.add(pending(number))
    assert backlog.in_memory == PAGE_MESSAGES
    seen: list[int] = []
    while taken := take(backlog, tokens, lease(messages=700)):
        seen += taken
    assert seen == list(range(1, MANY + 1))


def test_what_was_leased_at_the_start_is_not_read_again(tokens: Iterator[int]) -> None:
    backlog = stored_backlog(*map(pending, range(1, 11)))
    backlog.hold(pending(4), deadline=5)
    assert (backlog.ready, len(backlog)) == (9, 10)
    assert take(backlog, tokens, lease(messages=100)) == [1, 2, 3, 5, 6, 7, 8, 9, 10]
    backlog.lapse(5)
    assert take(backlog, tokens) == [4]


def test_a_message_that_leaves_the_disk_is_not_read_again(tokens: Iterator[int]) -> None:
    backlog = stored_backlog(*map(pending, range(1, 4)))
    (one,) = backlog.take(lease(messages=1), tokens)
    backlog.settle(one.message_id, one.token)
    backlog.begin_change()
    backlog.end_change(Tally(2, 3), floor=0)
    assert take(backlog, tokens) == [2, 3]


class TestAChangeOnDisk:
    def test_what_lies_below_the_floor_is_gone_and_the_rest_is_read_anew(self, tokens: Iterator[int]) -> None:
        backlog = stored_backlog(*map(pending, range(1, 11)))
        leased = take(backlog, tokens, lease(messages=6))
        backlog.begin_change()
        backlog.end_change(Tally(5, 10), floor=5)
        assert leased == [1, 2, 3, 4, 5, 6]
        assert (len(backlog), backlog.ready) == (5, 4)
        assert take(backlog, tokens) == [7, 8, 9, 10]

    def test_what_comes_back_is_delivered_before_the_rest(self, tokens: Iterator[int]) -> None:
        shelf = Shelf(pending(7))
        backlog = Backlog(shelf, first_token=FIRST_TOKEN, tally=shelf.tally())
        backlog.begin_change()
        shelf.messages |= {number: pending(number) for number in (3, 4)}
        backlog.end_change(shelf.tally(), floor=2)
        assert take(backlog, tokens) == [3, 4, 7]

    def test_what_is_published_meanwhile_counts_once(self, tokens: Iterator[int]) -> None:
        shelf = Shelf(pending(1))
        backlog = Backlog(shelf, first_token=FIRST_TOKEN, tally=shelf.tally())
        backlog.begin_change()
        for number in (2, 3, 4):
            shelf.messages[number] = pending(number)
        backlog.add(pending(2))
        backlog.end_change(Tally(3, 3), floor=0)
        backlog.add(pending(3))
        backlog.add(pending(4))
        assert len(backlog) == 4
        assert take(backlog, tokens) == [1, 2, 3, 4]

    @pytest.mark.parametrize("stays", [False, True])
    def test_what_is_published_and_acknowledged_meanwhile_counts_only_if_it_stays(
        self, tokens: Iterator[int], stays: bool
    ) -> None:
        backlog = empty_backlog()
        backlog.begin_change()
        backlog.add(pending(2))
        (taken,) = backlog.take(lease(), tokens)
        backlog.settle(taken.message_id, taken.token)
        if stays:
            backlog.restore([taken])
        else:
            backlog.settled([taken.message_id])
        backlog.end_change(Tally(0, 0), floor=0)
        assert len(backlog) == int(stays)

    def test_a_change_that_failed_is_none(self, tokens: Iterator[int]) -> None:
        backlog = stored_backlog(pending(1))
        backlog.begin_change()
        backlog.end_change()
        assert take(backlog, tokens) == [1]


def test_a_busy_key_does_not_hide_the_others_behind_it(tokens: Iterator[int]) -> None:
    messages = [pending(number, "busy") for number in range(1, MANY + 1)]
    messages += [pending(MANY + 1, "other"), pending(MANY + 2)]
    backlog = stored_backlog(*messages)
    backlog.policy = Policy(ordered=True)
    assert take(backlog, tokens, lease(messages=1)) == [1]
    found: list[int] = []
    while not found or backlog.unfinished:
        found += take(backlog, tokens)
    assert found == [MANY + 1, MANY + 2]
    assert backlog.in_memory <= LINE_MESSAGES + 2


def test_a_long_line_is_delivered_in_order_to_its_end(tokens: Iterator[int]) -> None:
    backlog = stored_backlog(*(pending(number, "key") for number in range(1, 501)))
    backlog.policy = Policy(ordered=True)
    seen: list[int] = []
    while taken := backlog.take(lease(messages=7), tokens):
        seen += [each.message_id for each in taken]
        for each in taken:
            backlog.settle(each.message_id, each.token)
    assert seen == list(range(1, 501))


class Deliveries:
    """Checks that nothing is delivered before what its key has to deliver first."""

    def __init__(self, keys: list[str]) -> None:
        self.out: list[Pending] = []
        self.unsettled = dict(enumerate(keys, 1))
        self._due: dict[int, float] = {}

    def take(self, taken: list[Pending], due: float) -> None:
        for each in taken:
            key, number = each.ordering_key, each.message_id
            first = [other for other, its in self.unsettled.items() if its == key and other < number]
            assert key == "" or all(other in self._due for other in first)
            self._due[number] = due
        self.out += taken

    def lapse(self, now: float) -> None:
        for number in sorted(self._due):
            if self._due.get(number, now + 1) <= now:
                self.give_back(number)

    def give_back(self, number: int) -> None:
        """End a delivery; of a key, those of the later messages too."""
        if number in self._due:
            key = self.unsettled[number]
            for other in [other for other in self._due if other == number or (key and other > number)]:
                if other == number or self.unsettled[other] == key:
                    del self._due[other]

    def settle(self, number: int) -> None:
        self.unsettled.pop(number, None)
        self._due.pop(number, None)


@given(
    st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=1, max_size=200),
    st.lists(st.tuples(st.sampled_from(["take", "settle", "nack", "lapse", "add"]), st.integers(0, 9)), max_size=80),
)
def test_whatever_happens_every_key_is_delivered_in_order(keys: list[str], steps: list[tuple[str, int]]) -> None:
    shelf = Shelf(*(pending(number, key) for number, key in enumerate(keys, 1)))
    backlog = Backlog(shelf, first_token=FIRST_TOKEN, tally=shelf.tally())
    backlog.policy, tokens, deliveries, now = Policy(ordered=True), all_tokens(), Deliveries(keys), 0.0
    for step, number in steps + [("lapse", 100), ("take", 0)] + [("settle", 0), ("take", 0)] * (len(keys) + 100):
        if step == "take":
            deliveries.take(backlog.take(lease(now + 5, 9), tokens), now + 5)
        elif step == "add":
            latest = max(shelf.messages) + 1
            shelf.messages[latest] = pending(latest, "abc"[number % 3])
            deliveries.unsettled[latest] = "abc"[number % 3]
            backlog.add(shelf.messages[latest])
        elif step == "lapse":
            now += number
            backlog.lapse(now)
            deliveries.lapse(now)
        elif deliveries.out:
            each = deliveries.out.pop(number % len(deliveries.out))
            if step == "nack" and backlog.give_back(each.message_id, each.token, now):
                deliveries.give_back(each.message_id)
            elif step == "settle" and backlog.settle(each.message_id, each.token) is not None:
                deliveries.settle(each.message_id)
    backlog.lapse(now + 100)
    assert not deliveries.unsettled or len(backlog) == backlog.ready == len(deliveries.unsettled)

"""Order, leases and staleness, with a clock that the test sets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from backlog_bench import FIRST_TOKEN, Holder, all_tokens, empty_backlog, lease, pending, stored_backlog, take
from hypothesis import given
from hypothesis import strategies as st

from transports.local.dispatch.backlog import Backlog, Lease, Policy
from transports.local.storage.reading import Tally


@pytest.fixture
def tokens() -> Iterator[int]:
    return all_tokens()


@pytest.fixture
def backlog() -> Backlog:
    """Give a backlog of messages 1, 2, 3 with 10, 20, 30 bytes, published at 100, 200, 300."""
    backlog = empty_backlog()
    for number in (1, 2, 3):
        backlog.add(pending(number))
    return backlog


def test_the_oldest_ready_message_is_taken_first(backlog: Backlog, tokens: Iterator[int]) -> None:
    assert take(backlog, tokens, lease(messages=2)) == [1, 2]
    backlog.give_back(1, FIRST_TOKEN)
    assert take(backlog, tokens) == [1, 3]
    assert backlog.ready == 0


def test_every_delivery_has_a_token_of_its_own(backlog: Backlog, tokens: Iterator[int]) -> None:
    taken = backlog.take(lease(), tokens)
    assert len({each.token for each in taken}) == 3


def test_no_more_bytes_are_taken_than_there_is_room_for(backlog: Backlog, tokens: Iterator[int]) -> None:
    assert take(backlog, tokens, lease(size=35)) == [1, 2]
    assert take(backlog, tokens, lease(size=29)) == []


def test_an_oversize_message_is_taken_alone_where_that_is_allowed(backlog: Backlog, tokens: Iterator[int]) -> None:
    terms = Lease(deadline=10, max_messages=10, max_bytes=5, oversize=True)
    assert take(backlog, tokens, terms) == [1]


def test_a_settled_message_is_gone(backlog: Backlog, tokens: Iterator[int]) -> None:
    (taken,) = backlog.take(lease(messages=1), tokens)
    settled = backlog.settle(taken.message_id, taken.token)
    assert settled is not None
    assert settled.pending() == taken
    assert backlog.settle(taken.message_id, taken.token) is None
    assert len(backlog) == 2


def test_a_lease_ends_at_its_deadline_and_not_before(backlog: Backlog, tokens: Iterator[int]) -> None:
    take(backlog, tokens, lease(deadline=10))
    backlog.lapse(9.9)
    assert backlog.ready == 0
    assert backlog.next_deadline() == 10
    backlog.lapse(10)
    assert backlog.ready == 3


def test_an_extended_lease_outlives_its_first_deadline(backlog: Backlog, tokens: Iterator[int]) -> None:
    (taken,) = backlog.take(lease(messages=1, deadline=10), tokens)
    assert backlog.extend(taken.message_id, taken.token, 20)
    backlog.lapse(19)
    assert backlog.ready == 2
    backlog.lapse(20)
    assert backlog.ready == 3


def test_a_shortened_lease_ends_earlier(backlog: Backlog, tokens: Iterator[int]) -> None:
    (taken,) = backlog.take(lease(messages=1, deadline=10), tokens)
    backlog.extend(taken.message_id, taken.token, 5)
    backlog.lapse(5)
    assert backlog.ready == 3


@pytest.mark.parametrize("how", ["settle", "extend", "give_back"])
def test_a_lease_that_ran_out_is_still_its_holders_until_redelivery(
    backlog: Backlog, tokens: Iterator[int], how: str
) -> None:
    (taken,) = backlog.take(lease(messages=1), tokens)
    backlog.lapse(10)
    arguments = (taken.message_id, taken.token, 99) if how == "extend" else (taken.message_id, taken.token)
    assert getattr(backlog, how)(*arguments)


@pytest.mark.parametrize("how", ["settle", "extend", "give_back"])
def test_an_earlier_token_is_stale_after_redelivery(backlog: Backlog, tokens: Iterator[int], how: str) -> None:
    (first,) = backlog.take(lease(messages=1), tokens)
    backlog.lapse(10)
    (second,) = backlog.take(lease(messages=1), tokens)
    arguments = (first.message_id, first.token, 99) if how == "extend" else (first.message_id, first.token)
    assert not getattr(backlog, how)(*arguments)
    assert backlog.settle(second.message_id, second.token)


def test_a_revived_lease_hides_the_message_again(backlog: Backlog, tokens: Iterator[int]) -> None:
    (taken,) = backlog.take(lease(messages=1), tokens)
    backlog.lapse(10)
    backlog.extend(taken.message_id, taken.token, 20)
    assert take(backlog, tokens) == [2, 3]


class TestAfterARestart:
    @pytest.fixture
    def backlog(self) -> Backlog:
        """Give a backlog whose message was last known to be delivered with token 500."""
        return stored_backlog(pending(1)._replace(token=500))

    def test_the_remembered_delivery_can_be_settled(self, backlog: Backlog) -> None:
        assert backlog.settle(1, 500)

    def test_an_earlier_delivery_is_stale(self, backlog: Backlog) -> None:
        assert not backlog.settle(1, 499)

    def test_a_later_one_that_was_not_written_down_is_good(self, backlog: Backlog) -> None:
        assert backlog.extend(1, 501, 10)
        assert not backlog.settle(1, 500)
        assert backlog.settle(1, 501)

    def test_a_token_that_this_process_never_gave_is_none(self, backlog: Backlog) -> None:
        assert not backlog.settle(1, FIRST_TOKEN)

    def test_a_redelivery_makes_it_stale(self, backlog: Backlog, tokens: Iterator[int]) -> None:
        take(backlog, tokens)
        assert not backlog.settle(1, 500)
        assert backlog.settle(1, FIRST_TOKEN)


def test_a_holder_is_told_of_everything_that_it_holds_no_longer(backlog: Backlog, tokens: Iterator[int]) -> None:
    holder = Holder()
    one, two, _ = backlog.take(lease(holder=holder), tokens)
    backlog.settle(one.message_id, one.token)
    backlog.give_back(two.message_id, two.token)
    backlog.give_back(two.message_id, two.token)
    backlog.lapse(10)
    assert holder.released == [10, 20, 30]


def test_a_holder_is_told_of_dropped_messages(backlog: Backlog, tokens: Iterator[int]) -> None:
    holder = Holder()
    backlog.take(lease(messages=1, holder=holder), tokens)
    backlog.begin_change()
    backlog.end_change(Tally(0, 3), floor=3)
    assert holder.released == [10]
    assert (len(backlog), backlog.ready) == (0, 0)


class TestExactlyOnce:
    @pytest.fixture
    def backlog(self, backlog: Backlog) -> Backlog:
        backlog.policy = Policy(exactly_once=True)
        return backlog

    @pytest.mark.parametrize("how", ["settle", "extend", "give_back"])
    def test_a_lease_that_ran_out_is_its_holders_no_longer(
        self, backlog: Backlog, tokens: Iterator[int], how: str
    ) -> None:
        (taken,) = backlog.take(lease(messages=1, deadline=10), tokens)
        arguments = (99, 10.0) if how == "extend" else (10.0,)
        assert not getattr(backlog, how)(taken.message_id, taken.token, *arguments)
        backlog.lapse(10)
        assert not getattr(backlog, how)(taken.message_id, taken.token, *arguments)

    def test_a_running_lease_can_be_extended_given_back_and_settled(
        self, backlog: Backlog, tokens: Iterator[int]
    ) -> None:
        one, two, _ = backlog.take(lease(deadline=10), tokens)
        assert backlog.extend(one.message_id, one.token, 20, 9)
        assert backlog.settle(one.message_id, one.token, 19)
        assert backlog.give_back(two.message_id, two.token, 9)
        assert not backlog.settle(two.message_id, two.token, 9)


class TestRetryPolicy:
    def test_the_delay_doubles_up_to_the_longest(self, backlog: Backlog, tokens: Iterator[int]) -> None:
        backlog.policy = Policy(min_delay_seconds=10, max_delay_seconds=30)
        now, delays = 0.0, []
        for _ in range(4):
            (taken,) = backlog.take(lease(now + 5, messages=1), tokens)
            backlog.give_back(taken.message_id, taken.token, now)
            due = backlog.next_deadline()
            assert due is not None
            delays.append(due - now)
            backlog.lapse(due)
            now = due
        assert delays == [10, 20, 30, 30]

    def test_a_lease_that_ran_out_delays_too(self, backlog: Backlog, tokens: Iterator[int]) -> None:
        backlog.policy = Policy(min_delay_seconds=10, max_delay_seconds=30)
        take(backlog, tokens, lease(5, messages=1))
        backlog.lapse(5)
        assert take(backlog, tokens) == [2, 3]
        assert backlog.ready == 1
        backlog.lapse(15)
        assert take(backlog, tokens) == [1]

    def test_a_delayed_message_can_be_acknowledged(self, backlog: Backlog, tokens: Iterator[int]) -> None:
        backlog.policy = Policy(min_delay_seconds=10, max_delay_seconds=30)
        (taken,) = backlog.take(lease(messages=1), tokens)
        backlog.give_back(taken.message_id, taken.token, 0)
        assert backlog.settle(taken.message_id, taken.token)
        backlog.lapse(1000)
        assert len(backlog) == backlog.ready == 2


class TestDeadMessages:
    def test_a_message_is_dead_after_so_many_deliveries_in_vain(self, backlog: Backlog, tokens: Iterator[int]) -> None:
        backlog.policy = Policy(max_attempts=2)
        for _ in range(2):
            (taken,) = backlog.take(lease(messages=1), tokens)
            assert backlog.take_dead() == []
            backlog.give_back(taken.message_id, taken.token)
        (dead,) = backlog.take_dead()
        assert (dead.message_id, dead.attempts) == (1, 2)
        assert take(backlog, tokens) == [2, 3]
        assert backlog.bury(1) == dead
        assert len(backlog) == 2

    def test_its_ack_id_is_good_no_longer(self, backlog: Backlog, tokens: Iterator[int]) -> None:
        backlog.policy = Policy(max_attempts=1)
        (taken,) = backlog.take(lease(messages=1, deadline=5), tokens)
        backlog.lapse(5)
        assert not backlog.settle(taken.message_id, taken.token)

    def test_what_never_reached_its_consumer_was_no_attempt(self, backlog: Backlog, tokens: Iterator[int]) -> None:
        (taken,) = backlog.take(lease(messages=1), tokens)
        backlog.undo(taken.message_id, taken.token)
        (again,) = backlog.take(lease(messages=1), tokens)
        assert (again.message_id, again.attempts) == (1, 1)


@given(
    st.lists(st.tuples(st.sampled_from(["take", "settle", "give_back", "extend", "lapse", "stale"]), st.integers(1, 6)))
)
def test_whatever_happens_each_message_is_ready_leased_or_settled(steps: list[tuple[str, int]]) -> None:
    tokens, backlog, holder = all_tokens(), empty_backlog(), Holder()
    for number in range(1, 7):
        backlog.add(pending(number))
    now, settled, latest, stale = 0.0, 0, dict[int, int](), dict[int, int]()
    for step, number in steps:
        token = latest.get(number, -1)
        match step:
            case "take":
                for each in backlog.take(lease(now + 5, 2, holder=holder), tokens):
                    stale |= {each.message_id: latest[each.message_id]} if each.message_id in latest else {}
                    latest[each.message_id] = each.token
            case "settle":
                settled += backlog.settle(number, token) is not None
            case "give_back":
                backlog.give_back(number, token)
            case "extend":
                backlog.extend(number, token, now + number)
            case "stale":
                assert backlog.settle(number, stale.get(number, -1)) is None
            case "lapse":
                now += number
                backlog.lapse(now)
    assert len(backlog) == 6 - settled
    backlog.lapse(now + 1000)
    assert backlog.ready == len(backlog) == len(backlog.take(lease(now + 5), tokens))
    assert backlog.ready == 0

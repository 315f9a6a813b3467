"""The book of leases, on a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transports.errors import BadURL
from transports.pubsub.leases.ledger import Lease, Ledger, batches
from transports.pubsub.options import Options


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(Options())


def held(ledger: Ledger, message_id: str = "m", ack_id: str = "a1", now: float = 0.0) -> Lease:
    lease = ledger.hold("sub", message_id, ack_id, now)
    assert lease is not None
    return lease


@pytest.mark.parametrize(
    ("held_seconds", "lease_seconds"),
    [(0, 45), (60, 45), (450, 45), (600, 60), (3600, 360), (6000, 600), (86400, 600)],
)
def test_a_lease_is_a_tenth_of_the_time_held_within_limits(held_seconds: float, lease_seconds: float) -> None:
    assert Options().lease_seconds(held_seconds) == lease_seconds


def test_a_new_message_is_leased_after_a_moment_and_again_after_a_third(ledger: Ledger) -> None:
    lease = held(ledger, now=99.5)
    assert lease.expires_at == 99.5 + Options().stream_ack_deadline_seconds
    assert ledger.take_due(99.9) == []
    assert ledger.take_due(100.0) == [lease]
    ledger.renewed(lease, 45, 100.0)
    assert lease.expires_at == 145.0
    assert ledger.take_due(114.9) == []
    assert ledger.take_due(115.1) == [lease]


def test_a_lease_that_could_not_be_renewed_is_tried_again(ledger: Ledger) -> None:
    lease = held(ledger)
    assert ledger.take_due(0.5) == [lease]
    ledger.postpone(lease, 2.0)
    assert ledger.next_due() == 2.0
    assert lease.expires_at == Options().stream_ack_deadline_seconds


def test_a_redelivery_of_what_is_held_is_not_dispatched_and_its_ack_id_counts(ledger: Ledger) -> None:
    lease = held(ledger)
    assert ledger.hold("sub", "m", "a2", 5.0) is None
    assert lease.ack_id == "a2"
    assert ledger.take_due(5.0) == [lease]
    assert ledger.next_due() is None


def test_the_same_id_published_at_another_time_is_another_message(ledger: Ledger) -> None:
    first = ledger.hold("sub", "1", "a1", 0.0, "before the server lost its data")
    assert first is not None
    ledger.ack(first)
    assert ledger.hold("sub", "1", "a2", 0.0, "after it") is not None


def test_the_same_id_from_another_subscription_is_another_message(ledger: Ledger) -> None:
    held(ledger)
    assert ledger.hold("other", "m", "a2", 0.0) is not None


def test_a_redelivery_of_what_was_acknowledged_is_acknowledged_again(ledger: Ledger) -> None:
    lease = held(ledger)
    ledger.ack(lease)
    ledger.acked([lease])
    assert ledger.is_settled
    assert ledger.hold("sub", "m", "a2", 5.0) is None
    assert [each.ack_id for each in ledger.acks.values()] == ["a2"]


def test_what_was_acknowledged_stays_leased_until_the_server_confirms(ledger: Ledger) -> None:
    lease = held(ledger)
    ledger.ack(lease)
    assert ledger.take_due(0.5) == [lease]
    ledger.acked([lease])
    assert ledger.next_due() is None
    assert ledger.held == {}


def test_what_was_given_back_can_be_taken_again(ledger: Ledger) -> None:
    lease = held(ledger)
    ledger.set_deadline(lease, 0, 1.0)
    assert [(each.ack_id, each.seconds) for each in ledger.deadlines] == [("a1", 0)]
    assert ledger.next_due() is None
    assert ledger.hold("sub", "m", "a2", 2.0) is not None


@pytest.mark.parametrize("second", ["ack", "nack"])
def test_a_message_is_settled_once(ledger: Ledger, second: str) -> None:
    lease = held(ledger)
    ledger.set_deadline(lease, 0, 1.0)
    if second == "ack":
        ledger.ack(lease)
    else:
        ledger.set_deadline(lease, 0, 1.0)
    assert not ledger.acks
    assert len(ledger.deadlines) == 1


def test_at_the_end_everything_unfinished_is_given_back(ledger: Ledger) -> None:
    done, open_, deferred, over = (held(ledger, name, name) for name in ("done", "open", "deferred", "over"))
    ledger.ack(done)
    ledger.set_deadline(over, 5, 0.0)
    ledger.set_deadline(deferred, 300, 0.0)
    ledger.deadlines.clear()
    ledger.give_all_back(20.0)
    assert {each.ack_id: each.seconds for each in ledger.deadlines} == {"open": 0, "deferred": 0}
    assert list(ledger.acks.values()) == [done]
    assert open_.settled


def test_a_deferred_message_that_comes_back_is_a_new_one(ledger: Ledger) -> None:
    ledger.set_deadline(held(ledger), 60, 0.0)
    assert ledger.hold("sub", "m", "a2", 60.0) is not None
    assert ledger.deferred == {}


def test_after_an_error_everything_is_renewed(ledger: Ledger) -> None:
    leases = [held(ledger, str(number)) for number in range(3)]
    ledger.take_due(0.0)
    ledger.postpone_all(1.0)
    assert ledger.take_due(1.0) == leases


@given(st.lists(st.text("ab", min_size=1, max_size=300), max_size=3000))
def test_batches_keep_order_and_limits(ack_ids: list[str]) -> None:
    found = list(batches(ack_ids))
    assert [ack_id for batch in found for ack_id in batch] == ack_ids
    assert all(0 < len(batch) <= 1000 and sum(map(len, batch)) <= 400_000 for batch in found)


def test_batches_are_cut_at_their_bytes() -> None:
    assert [len(batch) for batch in batches(["x" * 1000] * 900)] == [400, 400, 100]


def test_options_of_others_are_passed_over_and_bad_ones_refused() -> None:
    assert Options.from_mapping({"max_retries": 3, "lease_floor_seconds": 2.25}).lease_floor_seconds == 2.25
    with pytest.raises(BadURL, match="publish_timeout_seconds"):
        Options.from_mapping({"publish_timeout_seconds": 0})

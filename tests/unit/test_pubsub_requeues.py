"""How often messages were given back."""

from __future__ import annotations

from transports.pubsub.leases.requeues import Requeues

ONE, OTHER = ("sub", "1", 0.0), ("sub", "2", 0.0)


def test_each_message_is_counted_for_itself() -> None:
    requeues = Requeues()
    for key in (ONE, OTHER, ONE):
        requeues.note(key)
    assert (requeues.count(ONE), requeues.count(OTHER), requeues.count(("sub", "3", 0.0))) == (2, 1, 0)


def test_a_message_that_is_done_is_forgotten() -> None:
    requeues = Requeues()
    requeues.note(ONE)
    requeues.forget(ONE)
    requeues.forget(ONE)
    assert requeues.count(ONE) == 0


def test_the_same_id_published_at_another_time_is_another_message() -> None:
    requeues = Requeues()
    requeues.note(ONE)
    assert requeues.count(("sub", "1", 1.0)) == 0


def test_the_longest_untouched_are_forgotten_first() -> None:
    requeues = Requeues()
    requeues.note(ONE)
    requeues.note(OTHER)
    for number in range(9_998):
        requeues.note(("sub", f"n{number}", 0.0))
    requeues.note(ONE)
    requeues.note(("sub", "last", 0.0))
    assert (requeues.count(ONE), requeues.count(OTHER)) == (2, 0)

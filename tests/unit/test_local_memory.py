"""What is in memory of a backlog does not pile up, whatever is done again and again."""

from __future__ import annotations

from transports.local.dispatch.entries import Policy
from transports.local.dispatch.memory import Memory
from transports.local.model import Pending

#: How often something is done again.
OFTEN = 3000


class Holder:
    """A consumer that does nothing."""

    def release(self, size: int) -> None:
        pass


def memory(*messages: int, key: str = "") -> Memory:
    found = Memory()
    found.policy = Policy(ordered=bool(key))
    for message in messages:
        found.insert(Pending(message, message, 1, key))
    return found


def test_a_message_that_is_given_back_again_and_again() -> None:
    found, holder = memory(1), Holder()
    for _ in range(OFTEN):
        entry = found.first_ready(holder)
        assert entry is not None
        found.lease(entry, 10.0, holder)
        found.give_back(entry, 0.0)
        found.take_returned()
    assert len(found._heap) <= 2


def test_consumers_that_come_and_go_while_their_key_waits() -> None:
    found = memory(1, 2, key="k")
    for _ in range(OFTEN):
        holder, other = Holder(), Holder()
        entry = found.first_ready(holder)
        assert entry is not None
        found.lease(entry, 10.0, holder)
        assert found.first_ready(other) is None
        found.give_back(entry, 0.0)
        found.take_returned()
    assert len(found.lines._wanted) <= 1
    assert len(found._heap) <= 4

"""The keeper of leases against a server that can be told to fail."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Iterator, Sequence

import pytest

from transports.errors import PermissionMissing, RequestRefused, ServerUnavailable
from transports.pubsub.leases.keeper import Keeper
from transports.pubsub.leases.ledger import Lease
from transports.pubsub.options import Options

#: Leases of a second, renewed thrice as often.
FAST = Options(lease_floor_seconds=1, stream_ack_deadline_seconds=1)


class MemoryServer:
    """Remembers what it was told; says no to some ack ids and nothing at all while it is down."""

    def __init__(self) -> None:
        self.acked: list[str] = []
        self.deadlines: list[tuple[str, int]] = []
        self.refused: set[str] = set()
        self.down = False
        self.forbidden = False
        self._told = threading.Condition()

    def acknowledge(self, subscription: str, ack_ids: Sequence[str]) -> None:
        self._answer(ack_ids)
        with self._told:
            self.acked += ack_ids
            self._told.notify_all()

    def modify_ack_deadline(self, subscription: str, ack_ids: Sequence[str], seconds: int) -> None:
        self._answer(ack_ids)
        with self._told:
            self.deadlines += [(ack_id, seconds) for ack_id in ack_ids]
            self._told.notify_all()

    def wait_for(self, *deadlines: tuple[str, int]) -> None:
        with self._told:
            assert self._told.wait_for(lambda: set(deadlines) <= set(self.deadlines), 10), self.deadlines

    def _answer(self, ack_ids: Sequence[str]) -> None:
        if self.down:
            raise ServerUnavailable("down")
        if self.forbidden:
            raise PermissionMissing("not now")
        if self.refused.intersection(ack_ids):
            raise RequestRefused("no such ack id")


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer()


@pytest.fixture
def keeper(server: MemoryServer) -> Iterator[Keeper]:
    found = Keeper(server, FAST)
    yield found
    found.close(5)


def held(keeper: Keeper, name: str) -> Lease:
    lease = keeper.hold("sub", name, name)
    assert lease is not None
    return lease


def test_a_message_is_leased_after_a_moment_and_again(server: MemoryServer, keeper: Keeper) -> None:
    held(keeper, "a")
    server.wait_for(("a", 1))
    server.deadlines.clear()
    server.wait_for(("a", 1))


def test_what_is_settled_is_told(server: MemoryServer, keeper: Keeper) -> None:
    keeper.ack(held(keeper, "a"))
    keeper.nack(held(keeper, "b"))
    keeper.defer(held(keeper, "c"), 30)
    assert keeper.flush(10)
    assert server.acked == ["a"]
    server.wait_for(("b", 0), ("c", 30))


def test_an_acknowledgement_is_repeated_until_it_is_confirmed(server: MemoryServer, keeper: Keeper) -> None:
    lease = held(keeper, "a")
    server.down = True
    keeper.ack(lease)
    assert not keeper.flush(0.3)
    server.down = False
    assert keeper.flush(10)
    assert server.acked == ["a"]


def test_a_permission_that_was_missing_for_a_while_costs_neither_acknowledgement_nor_lease(
    server: MemoryServer, keeper: Keeper
) -> None:
    done, running = held(keeper, "done"), held(keeper, "running")
    assert keeper.flush(10)
    server.forbidden = True
    keeper.ack(done)
    assert not keeper.flush(0.5)
    server.deadlines.clear()
    server.forbidden = False
    assert keeper.flush(10)
    assert server.acked == ["done"]
    server.wait_for(("running", 1))
    assert not running.settled


def test_one_refused_message_does_not_keep_others_from_being_acknowledged(
    server: MemoryServer, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    leases = [held(keeper, name) for name in ("a", "b", "c")]
    assert keeper.flush(10)
    server.down = True
    for lease in leases:
        keeper.ack(lease)
    server.refused.add("b")
    with caplog.at_level(logging.ERROR):
        server.down = False
        assert keeper.flush(10)
    assert sorted(server.acked) == ["a", "c"]


def test_what_its_owner_forgot_is_given_back(server: MemoryServer, keeper: Keeper) -> None:
    class Owner:
        """Anything that can be forgotten."""

    owner = Owner()
    weakref.finalize(owner, keeper.forget, held(keeper, "a"))
    del owner
    gc.collect()
    server.wait_for(("a", 0))


def test_closing_gives_back_what_is_not_done_and_ends_the_thread(server: MemoryServer, keeper: Keeper) -> None:
    keeper.ack(held(keeper, "a"))
    held(keeper, "b")
    keeper.defer(held(keeper, "c"), 600)
    keeper.close(10)
    assert server.acked == ["a"]
    server.wait_for(("b", 0), ("c", 0))
    assert keeper._thread is not None
    assert not keeper._thread.is_alive()


def test_a_lost_lease_is_told_once(server: MemoryServer, caplog: pytest.LogCaptureFixture) -> None:
    told = threading.Event()
    lost: list[str] = []

    def note(message_id: str) -> None:
        lost.append(message_id)
        told.set()
        raise RuntimeError("a callback's own error must not stop the keeper")

    keeper = Keeper(server, Options(lease_floor_seconds=1, stream_ack_deadline_seconds=1, on_lease_lost=note))
    with caplog.at_level(logging.WARNING, "transports"):
        server.down = True
        held(keeper, "a")
        assert told.wait(10)
        server.down = False
        server.wait_for(("a", 1))
        keeper.close(10)
    assert lost == ["a"]
    assert "the lease of message a from sub was lost" in caplog.text


def test_an_error_of_our_own_does_not_end_the_keeper(
    server: MemoryServer, keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    broken = threading.Event()

    def fail(*args: object, **how: object) -> None:
        broken.set()
        raise ZeroDivisionError

    server.modify_ack_deadline, works = fail, server.modify_ack_deadline  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR, "transports"):
        held(keeper, "a")
        assert broken.wait(10)
        server.modify_ack_deadline = works  # type: ignore[method-assign]
        server.wait_for(("a", 1))
    assert "goes on" in caplog.text

"""Random operations on our broker and on Google's emulator: whatever is done to both, both answer the same.

Left out is what depends on time, and where the emulator is known to differ (``test_local_differences``).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.api_core.exceptions import GoogleAPICallError
from google.pubsub_v1 import types
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from pubsub_client import PubSub

pytestmark = pytest.mark.emulator

#: Examples, and steps of each, that take some 20 s together on two busy cores.
EXAMPLES, STEPS = 120, 40

names = st.sampled_from(["first", "second"])
keys = st.sampled_from(["", "A", "B"])
some = st.integers(0, 3)
#: Whether a subscription delivers exactly once, keeps the order of keys, retains what was acknowledged.
kinds = st.tuples(st.booleans(), st.booleans(), st.booleans())


class Server:
    """A project on one server, and what its subscriptions have delivered and not settled yet, by body."""

    def __init__(self, address: str, *, keeps_order: bool) -> None:
        self.pubsub = PubSub(address)
        self.keeps_order = keeps_order
        self.held: dict[str, dict[str, types.ReceivedMessage]] = {}

    def create(self, name: str, **fields: Any) -> None:
        self.pubsub.subscriber.create_subscription(
            request={"name": self.pubsub.subscription(name), "topic": self.pubsub.topic(), **fields}, retry=None
        )
        self.held[name] = {}

    def delete(self, name: str) -> None:
        self.pubsub.subscriber.delete_subscription(subscription=self.pubsub.subscription(name))
        self.held.pop(name)

    def publish(self, *keys_and_bodies: tuple[str, str]) -> int:
        messages = [{"data": body.encode(), "ordering_key": key} for key, body in keys_and_bodies]
        return len(self.pubsub.publisher.publish(topic=self.pubsub.topic(), messages=messages).message_ids)

    def pull(self, name: str, *, ordered: bool) -> list[str]:
        """Take what is there and return the bodies; of an ordering key, they must have come in their order.

        Not so from the emulator, which may deliver later ones of a key before those that were given back.
        """
        path, bodies = self.pubsub.subscription(name), list[tuple[str, str]]()
        while received := list(self.pubsub.start_pull(path, 1000, at_once=True).result().received_messages):
            self.held[name] |= {each.message.data.decode(): each for each in received}
            bodies += [(each.message.ordering_key, each.message.data.decode()) for each in received]
        if ordered and self.keeps_order:
            by_key = [[body for key, body in bodies if key == wanted] for wanted in ("A", "B")]
            assert by_key == [sorted(each) for each in by_key]
        return sorted(body for _, body in bodies)

    def settle(self, name: str, bodies: list[str], seconds: int | None) -> None:
        """Acknowledge (None) messages that were delivered, give them back (0), or extend their leases."""
        path, received = self.pubsub.subscription(name), [self.held[name][body] for body in bodies]
        if seconds is None:
            self.pubsub.acknowledge(path, *received)
        else:
            self.pubsub.modify(path, *received, seconds=seconds)

    def forget(self, name: str, bodies: list[str]) -> None:
        for body in bodies:
            del self.held[name][body]

    def seek(self, name: str, **target: Any) -> None:
        self.pubsub.subscriber.seek(request={"subscription": self.pubsub.subscription(name), **target})
        self.held[name].clear()

    def snapshot(self, name: str, subscription: str) -> None:
        path = f"{self.pubsub.project}/snapshots/{name}"
        self.pubsub.subscriber.create_snapshot(name=path, subscription=self.pubsub.subscription(subscription))

    def seek_to_snapshot(self, name: str, snapshot: str) -> None:
        self.seek(name, snapshot=f"{self.pubsub.project}/snapshots/{snapshot}")

    def replace_topic(self) -> None:
        self.pubsub.publisher.delete_topic(topic=self.pubsub.topic())
        self.pubsub.publisher.create_topic(name=self.pubsub.topic())

    def overview(self) -> list[tuple[str, str]]:
        project = self.pubsub.project
        found = self.pubsub.subscriber.list_subscriptions(project=project)
        return sorted((each.name.removeprefix(project), each.topic.removeprefix(project)) for each in found)


class BothServers(RuleBasedStateMachine):
    """Does everything twice."""

    addresses: tuple[str, str]

    @initialize(first=kinds, second=kinds)
    def start(self, first: tuple[bool, bool, bool], second: tuple[bool, bool, bool]) -> None:
        local, emulator = self.addresses
        self.servers = [Server(local, keeps_order=True), Server(emulator, keeps_order=False)]
        self.published = 0
        #: Subscriptions by how they were created.
        self.kinds: dict[str, dict[str, Any]] = {}
        #: Subscriptions and snapshots of a topic that was replaced; the emulator takes it for the new one.
        self.orphans: set[str] = set()
        self.snapshots: set[str] = set()
        for server in self.servers:
            server.pubsub.publisher.create_topic(name=server.pubsub.topic())
        self.create("first", first)
        self.create("second", second)

    def teardown(self) -> None:
        for server in getattr(self, "servers", []):
            server.pubsub.close()

    def both(self, work: Callable[[Server], Any]) -> Any:
        """Do something to both servers; return the answer, or the class of the error, which must be the same."""
        local, emulator = (self._try(work, server) for server in self.servers)
        assert local == emulator
        return local

    def kind(self, name: str, field: str) -> bool:
        return bool(self.kinds.get(name, {}).get(field))

    @rule(name=names, kind=kinds)
    def create(self, name: str, kind: tuple[bool, bool, bool]) -> None:
        once, ordered, retain = kind
        fields = {
            "enable_exactly_once_delivery": once,
            "enable_message_ordering": ordered,
            "retain_acked_messages": retain,
            "ack_deadline_seconds": 600,
        }
        if self.both(lambda server: server.create(name, **fields)) is None:
            self.kinds[name] = fields
            self.orphans.discard(name)

    @rule(name=names)
    def delete(self, name: str) -> None:
        self.both(lambda server: server.delete(name))
        self.kinds.pop(name, None)

    @rule(sent=st.lists(keys, min_size=1, max_size=4))
    def publish(self, sent: list[str]) -> None:
        bodies = [(key, f"{self.published + number:04}") for number, key in enumerate(sent)]
        self.published += len(sent)
        assert self.both(lambda server: server.publish(*bodies)) == len(sent)

    @rule(name=names)
    def pull_all(self, name: str) -> None:
        self.both(lambda server: server.pull(name, ordered=self.kind(name, "enable_message_ordering")))

    @precondition(lambda self: self.kinds)
    @rule(name=names, count=some)
    def acknowledge(self, name: str, count: int) -> None:
        """Acknowledge the first that are held, and again, which exactly-once delivery refuses."""
        if bodies := self.held(name)[: count + 1]:
            self.both(lambda server: server.settle(name, bodies, None))
            self.both(lambda server: server.settle(name, bodies, None))
            self.forget(name, bodies)

    @precondition(lambda self: self.kinds)
    @rule(name=names)
    def give_all_back(self, name: str) -> None:
        if bodies := self.held(name):
            self.both(lambda server: server.settle(name, bodies, 0))
            if self.kind(name, "enable_exactly_once_delivery"):
                self.both(lambda server: server.settle(name, bodies, None))
            self.forget(name, bodies)

    @precondition(lambda self: self.kinds)
    @rule(name=names)
    def give_one_back(self, name: str) -> None:
        """Of a key in order, the emulator waits for the others; so only where there is no order."""
        bodies = self.held(name)[-1:]
        if bodies and not self.kind(name, "enable_message_ordering"):
            self.both(lambda server: server.settle(name, bodies, 0))
            self.forget(name, bodies)

    @precondition(lambda self: self.kinds)
    @rule(name=names, seconds=st.sampled_from([300, 600]))
    def extend(self, name: str, seconds: int) -> None:
        if bodies := self.held(name):
            self.both(lambda server: server.settle(name, bodies, seconds))

    @rule(name=names)
    def purge(self, name: str) -> None:
        """Seek to now; what the emulator so drops it does not bring back, which it would have to where it retains."""
        if not self.kind(name, "retain_acked_messages") and self.can_seek(name):
            self.both(lambda server: server.seek(name, time=datetime.now(UTC)))

    @rule(name=names)
    def replay(self, name: str) -> None:
        """Seek back, once everything is settled: what is held is another matter with each server."""
        if self.kind(name, "retain_acked_messages") and not self.held(name) and self.can_seek(name):
            self.both(lambda server: server.seek(name, time=datetime.now(UTC) - timedelta(minutes=5)))

    @rule(name=names, snapshot=st.sampled_from(["snap1", "snap2"]))
    def take_snapshot(self, name: str, snapshot: str) -> None:
        if name not in self.orphans and self.both(lambda server: server.snapshot(snapshot, name)) is None:
            self.snapshots.add(snapshot)

    @rule(name=names, snapshot=st.sampled_from(["snap1", "snap2"]))
    def seek_to_snapshot(self, name: str, snapshot: str) -> None:
        if not self.held(name) and self.can_seek(name) and not self.orphans & {name, snapshot}:
            self.both(lambda server: server.seek_to_snapshot(name, snapshot))

    @rule()
    def look(self) -> None:
        self.both(Server.overview)

    @rule()
    def replace_topic(self) -> None:
        self.both(Server.replace_topic)
        self.orphans |= self.kinds.keys() | self.snapshots

    def can_seek(self, name: str) -> bool:
        """Say whether the emulator implements seeking; where there is an order to keep, it does not."""
        return not self.kind(name, "enable_message_ordering")

    def held(self, name: str) -> list[str]:
        """Return the bodies that both servers have delivered and that were not settled."""
        local, emulator = (list(server.held.get(name, {})) for server in self.servers)
        return sorted(set(local) & set(emulator))

    def forget(self, name: str, bodies: list[str]) -> None:
        for server in self.servers:
            server.forget(name, bodies)

    @staticmethod
    def _try(work: Callable[[Server], Any], server: Server) -> Any:
        try:
            return work(server)
        except GoogleAPICallError as exc:
            return type(exc)
        except Exception as exc:
            if hasattr(exc, "code"):
                return exc.code()
            raise


def test_both_servers_answer_the_same(local_broker_address: str, emulator_address: str) -> None:
    class Machine(BothServers):
        addresses = (local_broker_address, emulator_address)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )

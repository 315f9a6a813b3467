"""Kill the broker at any moment: what it had confirmed is still true when it comes back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.api_core.exceptions import GoogleAPICallError
from google.protobuf.duration_pb2 import Duration
from pubsub_client import PubSub, texts
from pubsub_servers import ServerProcess, broker_process

#: Messages that must have been confirmed, and acknowledgements, before the broker is killed.
CONFIRMED, ACKNOWLEDGED = 300, 50


@contextmanager
def connected(data: Path, project: str) -> Iterator[tuple[PubSub, ServerProcess]]:
    """Run a broker process on a directory, and a client of it."""
    with broker_process(data) as process:
        server = PubSub(process.address)
        server.project = f"projects/{project}"
        try:
            yield server, process
        finally:
            server.close()


class Load:
    """Publishers and consumers that go on until the broker is gone, and what it had told them by then."""

    def __init__(self, server: PubSub, subscription: str) -> None:
        self.confirmed: set[str] = set()
        self.asked_to_acknowledge: set[str] = set()
        self.acknowledged: set[str] = set()
        self.enough = threading.Event()
        self._server = server
        self._subscription = subscription
        works = [self._publish, self._publish, self._publish, self._consume, self._consume]
        self._threads = [threading.Thread(target=self._until_it_fails, args=(work,)) for work in works]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _until_it_fails(self, work: object) -> None:
        assert callable(work)
        try:
            while True:
                work()
                if len(self.confirmed) >= CONFIRMED and len(self.acknowledged) >= ACKNOWLEDGED:
                    self.enough.set()
        except GoogleAPICallError:
            return

    def _publish(self) -> None:
        self.confirmed.update(
            self._server.publisher.publish(
                topic=self._server.topic(), messages=[{"data": b"x"}, {"data": b"y"}], retry=None, timeout=20
            ).message_ids
        )

    def _consume(self) -> None:
        request = {"subscription": self._subscription, "max_messages": 1}
        received = self._server.subscriber.pull(request=request, retry=None, timeout=20).received_messages
        ids = {each.message.message_id for each in received}
        self.asked_to_acknowledge.update(ids)
        self._server.subscriber.acknowledge(
            subscription=self._subscription, ack_ids=[each.ack_id for each in received], retry=None, timeout=20
        )
        self.acknowledged.update(ids)


def test_no_confirmed_message_is_lost_and_no_acknowledged_one_comes_back(tmp_path: Path) -> None:
    with connected(tmp_path, "crash") as (server, process):
        subscription = server.setup(ack_deadline_seconds=10)
        load = Load(server, subscription)
        assert load.enough.wait(60)
        process.kill()
        load.join()
    with connected(tmp_path, "crash") as (server, _):
        owed = load.confirmed - load.asked_to_acknowledge
        seen: set[str] = set()
        while not owed <= seen:
            # What a pull was getting when the broker died stays leased for a moment.
            seen |= {each.message.message_id for each in server.pull(subscription, 1)}
            received = server.start_pull(subscription, 1000, at_once=True).result().received_messages
            seen |= {each.message.message_id for each in received}
        assert not load.acknowledged & seen
        assert not set(server.publish("new")) & (load.confirmed | seen)


class TestAckIdsFromBefore:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        return tmp_path / "data"

    def test_they_acknowledge(self, data: Path) -> None:
        with connected(data, "old") as (server, process):
            subscription = server.setup()
            server.publish("one", "two")
            one, two = server.pull(subscription, 2)
            process.kill()
        with connected(data, "old") as (server, _):
            server.acknowledge(subscription, one)
            server.modify(subscription, two, seconds=0)
            assert server.ready(subscription) == ["two"]
            assert two.ack_id != one.ack_id

    def test_they_take_up_the_lease_again(self, data: Path) -> None:
        with connected(data, "old") as (server, process):
            subscription = server.setup()
            server.publish("one")
            received = server.pull(subscription)
            process.stop()
        for _ in range(3):
            with connected(data, "old") as (server, process):
                server.modify(subscription, *received, seconds=600)
                assert server.ready(subscription) == []
                process.kill()
        with connected(data, "old") as (server, _):
            server.acknowledge(subscription, *received)
            assert server.ready(subscription) == []

    def test_their_messages_stay_leased_and_then_come_again(self, data: Path) -> None:
        with connected(data, "old") as (server, process):
            subscription = server.setup(ack_deadline_seconds=10)
            server.publish("leased")
            server.pull(subscription)
            server.publish("ready")
            server.setup("other")  # which is confirmed when the delivery before it is on disk, too
            process.kill()
        with connected(data, "old") as (server, _):
            assert server.ready(subscription) == ["ready"]
            assert texts(server.pull(subscription)) == ["leased"]

    def test_they_are_stale_once_the_message_was_delivered_anew(self, data: Path) -> None:
        with connected(data, "old") as (server, process):
            subscription = server.setup()
            server.publish("one")
            first = server.pull(subscription)
            process.kill()
        with connected(data, "old") as (server, process):
            server.modify(subscription, *first, seconds=0)
            second = server.pull(subscription)
            server.acknowledge(subscription, *first)
            process.stop()
        with connected(data, "old") as (server, _):
            server.acknowledge(subscription, *first)
            server.modify(subscription, *second, seconds=0)
            third = server.pull(subscription)
            assert texts(third) == ["one"]
            server.acknowledge(subscription, *second)
            server.modify(subscription, *third, seconds=0)
            assert server.ready(subscription) == ["one"]


def test_everything_that_was_set_up_is_there_after_a_restart(tmp_path: Path) -> None:
    with connected(tmp_path, "setup") as (server, process):
        server.publisher.create_topic(name=server.topic("dead"))
        first = server.setup(
            "first",
            "second",
            ack_deadline_seconds=44,
            expiration_policy={},
            labels={"a": "b"},
            filter="attributes:a",
            retain_acked_messages=True,
            enable_message_ordering=True,
            dead_letter_policy={"dead_letter_topic": server.topic("dead"), "max_delivery_attempts": 7},
            retry_policy={"minimum_backoff": Duration(nanos=500_000_000)},
        )
        snapshot = server.subscriber.create_snapshot(name=f"{server.project}/snapshots/snapshot", subscription=first)
        other = server.setup("other", topic="doomed")
        server.publish("kept", topic="doomed")
        server.publisher.delete_topic(topic=server.topic("doomed"))
        server.subscriber.delete_subscription(subscription=server.subscription("second"))
        before = server.subscriber.get_subscription(subscription=first)
        process.kill()
    with connected(tmp_path, "setup") as (server, _):
        assert server.subscriber.get_subscription(subscription=first) == before
        names = [each.name for each in server.subscriber.list_subscriptions(project=server.project)]
        assert names == [first, other]
        assert [each.name for each in server.publisher.list_topics(project=server.project)] == [
            server.topic("dead"),
            server.topic(),
        ]
        assert server.subscriber.get_snapshot(snapshot=snapshot.name) == snapshot
        assert server.subscriber.get_subscription(subscription=other).topic == "_deleted-topic_"
        assert server.ready(other) == ["kept"]

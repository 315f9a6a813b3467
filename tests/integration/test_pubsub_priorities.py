"""Priorities on both servers: the higher one comes first, and the limit stays exact over all steps and queues."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence

import pytest
from kombu import Exchange, Queue
from pubsub_client import PubSub
from studio import wait_for
from test_pubsub_bench import LIMIT, SETTLED, Broker, Taker

from transports.errors import QueueNotFound

JOBS = Queue("gpu", max_priority=10)
STEPS = (0, 3, 6, 9)
#: Seconds within which what a consumer cannot hold is there for another, 100 ms on an idle machine: half of those for
#: which the server would keep it for the consumer.
BACK_SECONDS = 30


@pytest.fixture
def broker(pubsub: PubSub) -> Iterator[Broker]:
    """A project of its own on each server."""
    with Broker(pubsub) as found:
        yield found


def publish(broker: Broker, *priorities: int, queue: Queue = JOBS) -> None:
    """Publish messages that say their queue, priority and number."""
    producer = broker.connect().Producer()
    for number, priority in enumerate(priorities):
        producer.publish((queue.name, priority, number), routing_key=queue.name, priority=priority, declare=[queue])


class TestOrder:
    def test_the_higher_priority_comes_first_out_of_a_backlog(self, broker: Broker) -> None:
        publish(broker, 0, 9, 3, 6, 0, 9, 3, 6, 0)
        found = broker.taker(JOBS, prefetch=1, options=SETTLED).bodies(9)
        assert [priority for _, priority, _ in found] == [9, 9, 6, 6, 3, 3, 0, 0, 0]

    def test_a_higher_priority_that_comes_later_overtakes_what_waits(self, broker: Broker) -> None:
        publish(broker, 0, 0, 0)
        taker = broker.taker(JOBS, prefetch=1, options=SETTLED)
        (first,) = taker.take()
        publish(broker, 10)
        first.ack()
        assert [priority for _, priority, _ in taker.bodies(3)] == [10, 0, 0]

    def test_it_holds_over_several_queues(self, broker: Broker) -> None:
        other = Queue("other", max_priority=10)
        publish(broker, 0, 9, queue=JOBS)
        publish(broker, 6, 3, queue=other)
        found = broker.taker(JOBS, other, prefetch=1, options=SETTLED).bodies(4)
        assert [priority for _, priority, _ in found] == [9, 6, 3, 0]

    def test_priorities_between_steps_go_by_the_step_below(self, broker: Broker) -> None:
        publish(broker, 2, 5, 8, 255)
        for step, priority in zip(STEPS, (2, 5, 8, 255), strict=True):
            name = f"celery-priority~{step}~gpu" if step else "celery-gpu"
            assert [json.loads(body)[1] for body in broker.waiting(name)] == [priority]

    def test_a_queue_without_priorities_takes_any(self, broker: Broker) -> None:
        publish(broker, 9, 0, queue=Queue("plain"))
        assert sorted(priority for _, priority, _ in broker.taker(Queue("plain")).bodies(2)) == [0, 9]

    def test_the_option_gives_every_queue_its_steps(self, broker: Broker) -> None:
        options = {"priority_steps": [0, 9], **SETTLED}
        connection = broker.connect(**options)
        queue = Queue("any", Exchange("jobs"), routing_key="k")
        for priority in (0, 9, 8):
            connection.Producer().publish(
                priority, exchange="jobs", routing_key="k", priority=priority, declare=[queue]
            )
        assert broker.taker(queue, options=options, prefetch=1).bodies(1) == [9]

    def test_a_publisher_that_knows_no_queue_sends_by_the_lowest_step(self, broker: Broker) -> None:
        JOBS(broker.connect().channel()).declare()
        with broker.run(
            """
            with Connection(URL, transport_options=FAST) as connection:
                connection.Producer().publish("x", routing_key="gpu", priority=9)
            """
        ) as process:
            assert process.wait(LIMIT) == 0
        assert broker.taker(JOBS).bodies(1) == ["x"]

    def test_a_plain_declaration_in_the_same_process_does_not_hide_higher_priorities(self, broker: Broker) -> None:
        publish(broker, 9)
        connection = broker.connect()
        Queue("gpu")(connection.channel()).declare()
        assert Taker(connection, Queue("gpu")).bodies(1) == [["gpu", 9, 0]]


def test_equal_priorities_come_in_order(local_pubsub: PubSub) -> None:
    """Google promises no order without ordering keys, and the emulator keeps none."""
    with Broker(local_pubsub) as broker:
        publish(broker, *[0] * 5, *[9] * 5)
        found = broker.taker(JOBS, prefetch=1, options=SETTLED).bodies(10)
        assert [number for _, _, number in found] == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]


class TestLimit:
    QUEUES = tuple(Queue(name, max_priority=10) for name in ("one", "two", "three"))

    def test_of_all_steps_of_three_queues_one_message_is_kept_and_the_others_are_back_at_once(
        self, broker: Broker
    ) -> None:
        for queue in self.QUEUES:
            publish(broker, *STEPS, queue=queue)
        options = {**SETTLED, "stream_ack_deadline_seconds": 2 * BACK_SECONDS}
        taker = broker.taker(*self.QUEUES, prefetch=1, options=options)
        (kept,) = taker.take()
        names = [_subscription(queue, step) for queue in self.QUEUES for step in STEPS]
        ready: set[str] = set()

        def the_others() -> bool:
            for name in names:
                ready.update(broker.pubsub.ready(broker.pubsub.subscription(name)))
            return len(ready) == 11

        wait_for("the surplus", the_others, seconds=BACK_SECONDS)
        assert kept.payload[1] == 9
        assert taker.gets_nothing(0.3)

    def test_another_consumer_gets_the_surplus(self, broker: Broker) -> None:
        for queue in self.QUEUES:
            publish(broker, *STEPS, queue=queue)
        busy = broker.taker(*self.QUEUES, prefetch=1)
        (kept,) = busy.take()
        found = broker.taker(*self.QUEUES, prefetch=1, options=SETTLED).bodies(11)
        assert len({tuple(body) for body in [*found, kept.payload]}) == 12
        assert _falling(found[:2])
        assert busy.gets_nothing(0.3)

    def test_two_consumers_of_one_slot_share_everything_and_nothing_comes_twice(self, broker: Broker) -> None:
        publish(broker, *STEPS * 10)
        takers = [broker.taker(JOBS, prefetch=1) for _ in range(2)]
        found: list[int] = []
        ends_at = time.monotonic() + 3 * LIMIT
        while len(found) < 40 and time.monotonic() < ends_at:
            for taker in takers:
                if not taker.gets_nothing(0.2):
                    message = taker.messages[-1]
                    found.append(message.payload[2])
                    message.ack()
        assert sorted(found) == list(range(40))

    def test_a_raised_limit_is_used_at_once(self, broker: Broker) -> None:
        publish(broker, *STEPS)
        taker = broker.taker(JOBS, prefetch=1)
        taker.take()
        taker.channel.basic_qos(0, 3, False)
        taker.take(2)
        assert taker.gets_nothing(0.3)


class TestGetting:
    def test_the_highest_priority_is_got_first(self, broker: Broker) -> None:
        publish(broker, 0, 9, 3)
        # A quarter of it for each priority.
        channel = broker.connect(get_timeout_seconds=12).channel()
        JOBS(channel).declare()
        found = []
        for _ in range(3):
            message = channel.basic_get("gpu")
            found.append(message.payload[1])
            message.ack()
        assert found == [9, 3, 0]
        assert JOBS(broker.connect().channel()).get() is None

    def test_a_deleted_step_is_said(self, broker: Broker) -> None:
        publish(broker, 9)
        channel = broker.connect().channel()
        JOBS(channel).declare()
        name = broker.pubsub.subscription("celery-priority~9~gpu")
        broker.pubsub.subscriber.delete_subscription(subscription=name)
        with pytest.raises(QueueNotFound):
            channel.basic_get("gpu")


def _subscription(queue: Queue, step: int) -> str:
    return f"celery-priority~{step}~{queue.name}" if step else f"celery-{queue.name}"


def _falling(bodies: Sequence[Sequence[object]]) -> bool:
    priorities = [body[1] for body in bodies]
    return priorities == sorted(priorities, reverse=True)  # type: ignore[type-var]

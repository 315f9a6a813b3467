"""Messages that are not wanted yet, or not any more, on both servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kombu import Queue
from kombu.message import Message
from pubsub_client import PubSub
from studio import wait_for
from test_pubsub_bench import GPU, LIMIT, Broker, Taker

from transports.pubsub.link import Link
from transports.pubsub.receiving.intake import Intake

#: Seconds by which a message may be late: with the ETA less than a lease of the server, after which it would come.
LATE_SECONDS = 5.0


@pytest.fixture
def broker(pubsub: PubSub) -> Iterator[Broker]:
    """A project of its own on each server."""
    with Broker(pubsub) as found:
        yield found


def eta(seconds: float) -> dict[str, str]:
    """Headers of a message that is due in so many seconds."""
    return {"eta": (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()}


class TestDue:
    def test_one_far_in_the_future_takes_neither_slot_nor_memory(self, broker: Broker) -> None:
        broker.publish("later", headers=eta(3600))
        broker.publish("now")
        taker = broker.taker(GPU, prefetch=1)
        (message,) = taker.take()
        assert message.payload == "now"
        message.ack()
        assert taker.gets_nothing()
        link = taker.channel.link
        wait_for("the acknowledgement", lambda: not link.keeper._ledger.held)
        assert not link.alarm._calls

    @pytest.mark.parametrize("seconds", [1.2, 4.5])
    def test_one_is_delivered_on_time_and_never_early(self, broker: Broker, seconds: float) -> None:
        taker = broker.taker(GPU, prefetch=1)
        headers = eta(seconds)
        broker.publish("x", headers=headers)
        (message,) = taker.take()
        late = time.time() - datetime.fromisoformat(headers["eta"]).timestamp()
        assert 0 <= late <= LATE_SECONDS
        assert message.headers["eta"] is None
        assert message.delivery_info["eta"] == headers["eta"]

    def test_one_whose_time_is_over_is_delivered_at_once(self, broker: Broker) -> None:
        broker.publish("x", headers=eta(-3600))
        (message,) = broker.taker(GPU).take()
        assert message.headers["eta"] is None

    def test_many_that_wait_do_not_hold_up_one_that_is_due(self, broker: Broker) -> None:
        broker.publish(*range(200), headers=eta(3600))
        broker.publish("now")
        assert broker.taker(GPU, prefetch=1).bodies(1) == ["now"]

    def test_one_survives_the_consumer_that_put_it_off(self, broker: Broker) -> None:
        headers = eta(8)
        broker.publish("x", headers=headers)
        broker.publish("now")
        first = broker.taker(GPU, prefetch=1)
        assert first.bodies(1) == ["now"]
        first.connection.release()
        assert broker.taker(GPU, prefetch=1).bodies(1) == ["x"]
        assert time.time() >= datetime.fromisoformat(headers["eta"]).timestamp()

    def test_one_survives_the_process_that_put_it_off(self, broker: Broker) -> None:
        code = """
            connection = Connection(URL, transport_options=FAST)
            connection.Consumer(Queue("gpu"), on_message=lambda message: message.ack()).consume()
            print("ready", flush=True)
            connection.drain_events(timeout=60)
            connection.release()
            os._exit(0)
        """
        with broker.run(code) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            headers = eta(8)
            broker.publish("x", headers=headers)
            broker.publish("now")
            assert process.wait(LIMIT) == 0
        assert broker.taker(GPU, prefetch=1).bodies(1) == ["x"]
        late = time.time() - datetime.fromisoformat(headers["eta"]).timestamp()
        assert 0 <= late <= LATE_SECONDS

    def test_one_that_comes_due_while_all_slots_are_taken_waits_at_the_server(self, broker: Broker) -> None:
        broker.publish("x", headers=eta(6))
        broker.publish("now")
        busy = broker.taker(GPU, prefetch=1)
        (running,) = busy.take()
        assert running.payload == "now"
        assert broker.taker(GPU, prefetch=1).bodies(1) == ["x"]
        running.ack()
        assert busy.gets_nothing()

    def test_one_that_is_due_in_a_moment_is_given_back_by_a_consumer_that_ends(self, broker: Broker) -> None:
        broker.publish("x", headers=eta(5))
        first = broker.taker(GPU, prefetch=1, options={"eta_lead_seconds": 60})
        wait_for("the message", lambda: first.channel.link.alarm._calls)
        first.consumer.cancel()
        assert broker.taker(GPU).bodies(1) == ["x"]

    def test_getting_one_message_passes_over_what_is_not_due(self, broker: Broker) -> None:
        broker.publish("later", headers=eta(3600))
        broker.publish("now")
        message = broker.connect(get_timeout_seconds=LIMIT).channel().basic_get("gpu")
        assert message is not None
        assert message.payload == "now"
        message.ack()
        assert broker.connect(get_timeout_seconds=4).channel().basic_get("gpu") is None


class TestLongWaits:
    """Pub/Sub drops messages after their retention; what waits longer is published anew."""

    def test_one_that_would_outlive_its_retention_is_published_anew_once(self, broker: Broker) -> None:
        link, old = self._received(broker, age_seconds=400, wait_seconds=3600)
        assert Intake(link, "gpu", *link.topology.sources("gpu")).take_in(old) is None
        assert link.keeper.flush(LIMIT)
        (new,) = broker.pubsub.pull(broker.pubsub.subscription("celery-gpu"))
        assert new.message.data == old.data
        assert new.message.message_id != old.message_id
        assert dict(new.message.attributes) == dict(old.attributes)
        assert not broker.waiting("celery-gpu")

    @pytest.mark.parametrize(("age", "wait"), [(200, 3600), (400, 100)])
    def test_one_that_is_young_or_soon_due_is_not(self, broker: Broker, age: float, wait: float) -> None:
        link, old = self._received(broker, age_seconds=age, wait_seconds=wait)
        assert Intake(link, "gpu", *link.topology.sources("gpu")).take_in(old) is None
        assert link.keeper.flush(LIMIT)
        assert not broker.waiting("celery-gpu")
        broker.pubsub.subscriber.modify_ack_deadline(
            subscription=broker.pubsub.subscription("celery-gpu"), ack_ids=[old.ack_id], ack_deadline_seconds=0
        )
        (again,) = broker.pubsub.pull(broker.pubsub.subscription("celery-gpu"))
        assert again.message.message_id == old.message_id

    def _received(self, broker: Broker, *, age_seconds: float, wait_seconds: float) -> tuple[Link, Any]:
        """A message of a queue that keeps messages for ten minutes, as if it had been published so long ago."""
        connection = broker.connect(retention_seconds=600, retention_fallback_seconds=600)
        connection.Producer().publish("x", routing_key="gpu", headers=eta(wait_seconds), declare=[GPU])
        link = connection.default_channel.link
        (received,) = link.client.pull("celery-gpu", timeout_seconds=LIMIT)
        return link, replace(received, published_at=received.published_at - age_seconds)


class TestExpiry:
    def test_a_message_that_expired_is_not_delivered(self, broker: Broker) -> None:
        broker.publish("short", expiration=0.5)
        broker.publish("long", expiration=600)
        _let_pass(0.6)
        assert broker.taker(GPU).bodies(1) == ["long"]
        assert not broker.waiting("celery-gpu")

    def test_a_message_that_has_time_is_delivered(self, broker: Broker) -> None:
        broker.publish("x", expiration=60)
        assert broker.taker(GPU).bodies(1) == ["x"]

    def test_a_queue_gives_its_messages_so_long(self, broker: Broker) -> None:
        short = Queue("gpu", message_ttl=4)
        broker.publish("old", queue=short)
        _let_pass(4.1)
        taker = broker.taker(short)
        broker.publish("new")
        assert taker.bodies(1) == ["new"]
        assert not broker.waiting("celery-gpu")

    def test_one_that_expired_while_it_was_worked_on_does_not_come_back(self, broker: Broker) -> None:
        taker = broker.taker(GPU)
        broker.publish("x", expiration=4)
        (message,) = taker.take()
        _let_pass(4.1)
        message.requeue()
        assert taker.gets_nothing()

    @pytest.mark.parametrize("seconds", [1.8, 3])
    def test_a_message_that_expires_before_it_is_due_is_never_delivered(self, broker: Broker, seconds: float) -> None:
        broker.publish("x", expiration=1, headers=eta(seconds))
        assert broker.taker(GPU).gets_nothing(seconds + 3)

    def test_an_expired_message_is_not_got_either(self, broker: Broker) -> None:
        broker.publish("old", expiration=0.1)
        broker.publish("new")
        _let_pass(0.2)
        message = _get(broker.taker(Queue("other"), options={"get_timeout_seconds": LIMIT}))
        assert message is not None
        assert message.payload == "new"


def _get(taker: Taker) -> Message | None:
    message: Message | None = GPU(taker.channel).get()
    return message


def _let_pass(seconds: float) -> None:
    """Wait for nothing but the clock: a message must become that old."""
    assert not threading.Event().wait(seconds)

"""What cannot be delivered is set aside, on both servers, and nothing is lost on the way."""

from __future__ import annotations

import json
import logging
import queue
import time
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Queue
from pubsub_client import PubSub
from studio import wait_for
from test_pubsub_bench import GPU, LIMIT, Broker, Taker

from transports.errors import ServerUnavailable
from transports.pubsub.dead.desk import DeadLetterDesk
from transports.pubsub.dead.letter import DeadLetter
from transports.pubsub.link import links


@pytest.fixture
def broker(pubsub: PubSub) -> Iterator[Broker]:
    """A project of its own on each server."""
    with Broker(pubsub) as found:
        yield found


def poison(broker: Broker, *bodies: str) -> None:
    """Publish what is no kombu message to a queue that is there."""
    with broker.connect() as connection:
        GPU(connection.channel()).declare()
    broker.pubsub.publish(*bodies, topic="celery-gpu")


def set_aside(broker: Broker, *bodies: str, reason: str = "is not a kombu message") -> list[DeadLetter]:
    """Wait until so many letters lie on the desk, and return them."""
    desk = DeadLetterDesk(broker.connect(), "gpu")
    letters = wait_for("the dead letters", lambda: len(found := desk.letters()) == len(bodies) and found, LIMIT)
    assert sorted(letter.data.decode() for letter in letters) == sorted(bodies)
    assert all(reason in letter.reason for letter in letters)
    return letters


class TestSettingAside:
    def test_what_nobody_can_read_goes_to_the_dead_letters_and_its_neighbours_are_delivered(
        self, broker: Broker
    ) -> None:
        broker.publish("a")
        poison(broker, "poison", '{"headers": [], "properties": {}, "body": ""}')
        broker.publish("b")
        published_until = time.time() + 60
        assert sorted(broker.taker(GPU, prefetch=1).bodies(2)) == ["a", "b"]
        letters = set_aside(broker, "poison", '{"headers": [], "properties": {}, "body": ""}')
        assert all(letter.queue == "gpu" for letter in letters)
        assert all(published_until - 600 < letter.published_at < published_until for letter in letters)

    def test_a_hook_gets_the_letter_instead(self, broker: Broker) -> None:
        poison(broker, "poison")
        told: queue.SimpleQueue[DeadLetter] = queue.SimpleQueue()
        taker = broker.taker(GPU, options={"on_dead_letter": told.put})
        letter = told.get(timeout=LIMIT)
        assert (letter.queue, letter.data) == ("gpu", b"poison")
        assert "is not a kombu message" in letter.reason
        taker.connection.release()
        assert taker.channel.link.keeper.flush(LIMIT)
        assert not broker.waiting("celery-gpu")
        assert not DeadLetterDesk(broker.connect(), "gpu").letters()

    def test_a_hook_that_raises_loses_nothing_and_disturbs_nobody(
        self, broker: Broker, caplog: pytest.LogCaptureFixture
    ) -> None:
        poison(broker, "poison")
        broker.publish("a")
        calls: list[DeadLetter] = []

        def fail(letter: DeadLetter) -> None:
            calls.append(letter)
            raise ZeroDivisionError("the disk is full")

        with caplog.at_level(logging.ERROR, "transports"):
            taker = broker.taker(GPU, options={"on_dead_letter": fail})
            assert taker.bodies(1) == ["a"]
            wait_for("the call", lambda: calls)
            assert taker.gets_nothing(2)
        assert len(calls) == 1
        assert "the disk is full" in caplog.text
        links.close()
        broker.taker(GPU)
        set_aside(broker, "poison")

    def test_a_message_that_is_given_back_again_and_again_is_set_aside(self, broker: Broker) -> None:
        broker.publish("bad", "good")
        taker = broker.taker(GPU, prefetch=1, options={"max_requeues": 3})
        starts = {"bad": 0, "good": 0}
        while starts["good"] < 1 or starts["bad"] < 3:
            (message,) = taker.take()
            starts[message.payload] += 1
            if message.payload == "bad":
                message.requeue()
            else:
                message.ack()
        assert taker.gets_nothing(2)
        desk = DeadLetterDesk(broker.connect(), "gpu")
        (letter,) = wait_for("the letter", desk.letters)
        assert (json.loads(letter.data)["body"], letter.reason) == ("bad", "it was given back 3 times")

    def test_how_often_it_was_given_back_is_seen_as_redelivered(self, broker: Broker) -> None:
        broker.publish("x")
        taker = broker.taker(GPU)
        (first,) = taker.take()
        assert first.delivery_info["redelivered"] is False
        first.requeue()
        assert taker.take()[0].delivery_info["redelivered"] is True

    def test_without_a_limit_a_message_comes_back_for_ever(self, broker: Broker) -> None:
        broker.publish("x")
        taker = broker.taker(GPU, options={"max_requeues": 0})
        for _ in range(25):
            taker.take()[0].requeue()
        assert taker.bodies(1) == ["x"]

    def test_neither_recovering_nor_deferring_nor_closing_counts(self, broker: Broker) -> None:
        broker.publish("x")
        taker = broker.taker(GPU, options={"max_requeues": 1})
        taker.take()
        taker.channel.basic_recover(requeue=True)
        taker.take()[0].defer(1)
        taker.take()
        taker.connection.release()
        del taker.messages[:]
        assert broker.taker(GPU, options={"max_requeues": 1}).bodies(1) == ["x"]

    def test_a_key_that_may_not_publish_puts_the_message_off_and_says_what_is_missing(
        self, broker: Broker, caplog: pytest.LogCaptureFixture
    ) -> None:
        poison(broker, "poison")
        broker.publish("a")
        links.close()
        with broker.through_proxy() as (proxy, worker), caplog.at_level(logging.ERROR, "transports"):
            proxy.only("subscriber")
            taker = Taker(worker, GPU)
            assert taker.bodies(1) == ["a"]
            wait_for("the refusal", lambda: "pubsub.topics.publish" in caplog.text)
            assert taker.gets_nothing(2)
        assert caplog.text.count("cannot be delivered") == 1
        broker.taker(GPU)
        set_aside(broker, "poison")

    def test_a_dead_letter_topic_that_somebody_deleted_is_made_again(self, broker: Broker) -> None:
        poison(broker, "first")
        taker = broker.taker(GPU)
        set_aside(broker, "first")
        broker.pubsub.subscriber.delete_subscription(subscription=broker.pubsub.subscription("celery-dead~gpu"))
        broker.pubsub.publisher.delete_topic(topic=broker.pubsub.topic("celery-dead~gpu"))
        poison(broker, "second")
        assert taker.gets_nothing()
        set_aside(broker, "second")


class TestDesk:
    @pytest.fixture
    def letters(self, broker: Broker) -> list[DeadLetter]:
        """Five letters that lie on the desk."""
        poison(broker, *(f"poison {number}" for number in range(5)))
        taker = broker.taker(GPU)
        assert taker.gets_nothing()
        found = set_aside(broker, *(f"poison {number}" for number in range(5)))
        assert taker.channel.link.keeper.flush(LIMIT)
        taker.connection.release()
        return found

    @pytest.fixture
    def desk(self, broker: Broker, letters: list[DeadLetter]) -> DeadLetterDesk:
        """Where letters are looked for as long as a busy machine takes to show one."""
        return DeadLetterDesk(broker.connect(get_timeout_seconds=3), "gpu")

    def test_looking_leaves_everything_where_it_is(self, desk: DeadLetterDesk, letters: list[DeadLetter]) -> None:
        assert sorted(desk.letters(), key=_data) == sorted(letters, key=_data) == sorted(desk.letters(), key=_data)

    def test_what_is_replayed_is_on_its_queue_again_and_off_the_desk(
        self, broker: Broker, desk: DeadLetterDesk
    ) -> None:
        assert desk.replay(lambda letter: letter.data in (b"poison 1", b"poison 3")) == 2
        received = broker.pubsub.pull(broker.pubsub.subscription("celery-gpu"), 2)
        assert sorted(each.message.data for each in received) == [b"poison 1", b"poison 3"]
        assert sorted(letter.data for letter in desk.letters()) == [b"poison 0", b"poison 2", b"poison 4"]

    def test_what_is_dropped_is_gone(self, broker: Broker, desk: DeadLetterDesk) -> None:
        assert desk.drop(lambda letter: letter.data != b"poison 2") == 4
        assert [letter.data for letter in desk.letters()] == [b"poison 2"]
        assert not broker.pubsub.ready(broker.pubsub.subscription("celery-gpu"))

    def test_a_message_that_was_given_back_too_often_can_be_worked_on_again(self, broker: Broker) -> None:
        broker.publish("x")
        options = {"max_requeues": 1}
        taker = broker.taker(GPU, options=options)
        taker.take()[0].requeue()
        assert taker.gets_nothing()
        desk = DeadLetterDesk(broker.connect(), "gpu")
        wait_for("the letter", desk.letters)
        assert wait_for("the replay", desk.replay) == 1
        assert taker.bodies(1) == ["x"]
        assert not desk.letters()

    def test_when_replaying_fails_the_rest_is_back_on_the_desk_at_once(
        self, broker: Broker, desk: DeadLetterDesk
    ) -> None:
        seen: list[Any] = []

        def third_time_unlucky(letter: DeadLetter) -> bool:
            seen.append(letter)
            if len(seen) == 3:
                raise ServerUnavailable("cut")
            return True

        with pytest.raises(ServerUnavailable):
            desk.replay(third_time_unlucky)
        # A minute later they would be there in any case.
        assert len(wait_for("the rest", lambda: len(found := desk.letters()) == 3 and found, seconds=30)) == 3

    def test_a_queue_without_dead_letters_has_none(self, broker: Broker) -> None:
        desk = DeadLetterDesk(broker.connect(), "nothing")
        assert (desk.letters(), desk.replay(), desk.drop(lambda _: True)) == ([], 0, 0)

    def test_more_letters_than_fit_into_one_answer_are_found(self, broker: Broker) -> None:
        poison(broker, *(f"{number}" for number in range(250)))
        taker = broker.taker(Queue("gpu"))
        desk = DeadLetterDesk(broker.connect(get_timeout_seconds=3), "gpu")
        assert taker.gets_nothing(2)
        wait_for("all letters", lambda: len(desk.letters()) == 250, LIMIT)
        assert desk.drop(lambda _: True) == 250


def _data(letter: DeadLetter) -> bytes:
    return letter.data

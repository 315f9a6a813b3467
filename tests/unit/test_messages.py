"""A message that is sent again is the one that was sent first: on the wire, with all that a canvas put into it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery, chain, chord, group, signature
from kombu import Exchange, Queue
from kombu.utils.json import loads

from studio_celery.errors import BrokerError, MessageLost
from studio_celery.submission.broker import Broker
from studio_celery.submission.message import Message
from studio_celery.submission.request import EXPERIMENT_TASK, split_options

FACTS = {"id": "e1", "store": "/s", "digest": "d"}
NEXT = signature("next", ("x",), task_id="n1")
SOON = datetime.now(UTC) + timedelta(days=3)

#: Options of `apply_async`, as a person or a canvas gives them.
OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "links": {"link": [NEXT, NEXT], "link_error": signature("alarm", immutable=True)},
    "a chain": {"chain": [signature("last"), NEXT], "root_id": "r", "parent_id": "p"},
    "a group": {"group_id": "g", "group_index": 3},
    "a chord": {"group_id": "g", "group_index": 1, "chord": {**chord([NEXT], NEXT).body, "chord_size": 2}},
    "headers and a name": {"headers": {"trace": "abc", "n": 1}, "shadow": "mine", "reply_to": "me"},
    "stamps": {"stamped_headers": ["who"], "who": "alice"},
    "a priority": {"priority": 7},
    "a time": {"eta": SOON},
    "a delay": {"countdown": 3600},
    "compression": {"compression": "zlib"},
    "a route": {"exchange": "elsewhere", "routing_key": "a.b"},
    "nothing to be kept": {"ignore_result": True},
}


class Bench:
    """An application on a broker in memory, and what its queues got."""

    def __init__(self) -> None:
        self.app = Celery("bench", broker="memory://", set_as_current=False)
        self.app.conf.update(task_serializer="json", accept_content=["json"], task_create_missing_queues=True)
        self.broker = Broker(self.app, "memory://", 1.0)
        self.kept: list[bytes] = []

    def publish(self, **options: Any) -> None:
        self.broker.publish(FACTS, lambda message: self.kept.append(message.to_json()), queue="q", **options)

    def again(self) -> None:
        self.broker.publish_again(Message.from_json(self.kept[-1]), "q")

    def taken(self, name: str = "q") -> list[dict[str, Any]]:
        """All messages of a queue as they are on the wire, without what tells deliveries apart."""
        with self.app.connection_for_read() as connection:
            channel = connection.default_channel
            found = []
            while (message := channel.basic_get(name, no_ack=True)) is not None:
                properties = {k: v for k, v in message.properties.items() if k != "delivery_tag"}
                wire = {k: getattr(message, k) for k in ("headers", "content_type", "content_encoding", "body")}
                found.append({**wire, "properties": properties})
            return found


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    with bench.app.connection_for_write() as connection:
        bound = Queue("q", Exchange("elsewhere", "topic"), routing_key="a.#")
        bound(connection.default_channel).declare()
    yield bench
    bench.taken()
    bench.app.close()


@pytest.mark.parametrize("name", list(OPTIONS))
def test_it_is_the_same_on_the_wire(bench: Bench, name: str) -> None:
    bench.publish(**OPTIONS[name])
    bench.again()
    first, second = bench.taken()
    assert second == first
    assert first["headers"]["id"] == "e1"
    assert first["headers"]["task"] == EXPERIMENT_TASK


def test_the_table_has_every_option_that_shapes_a_message() -> None:
    """Whatever `run_experiment` lets through to Celery is above, or only says how it is sent."""
    shaping = {option for options in OPTIONS.values() for option in options} - {"who"}
    sending = {"retry", "retry_policy", "connection", "producer", "publisher", "add_to_parent", "expires"}
    passing = {"task_type", "route_name", "replaced_task_nesting"}
    allowed = split_options(dict.fromkeys(shaping | sending | passing))[1]
    from studio_celery.submission.request import CELERY_OPTIONS

    assert allowed.keys() == CELERY_OPTIONS


def test_what_follows_and_when_it_is_due_are_in_it(bench: Bench) -> None:
    bench.publish(chain=[NEXT], countdown=3600, priority=4)
    bench.taken()
    bench.again()
    (message,) = bench.taken()
    args, kwargs, embed = loads(message["body"])
    assert (args, kwargs) == ([], FACTS)
    assert embed["chain"][0]["options"]["task_id"] == "n1"
    assert datetime.fromisoformat(message["headers"]["eta"]) > datetime.now(UTC) + timedelta(minutes=59)
    assert message["properties"]["priority"] == 4


def test_it_is_kept_before_it_is_sent(bench: Bench) -> None:
    def full(message: Message) -> None:
        raise OSError("no space")

    with pytest.raises((OSError, BrokerError), match="no space"):
        bench.broker.publish(FACTS, full, queue="q")
    assert bench.taken() == []


def test_an_event_about_it_is_sent_and_not_kept(bench: Bench) -> None:
    bench.app.conf.task_send_sent_event = True
    bench.publish()
    assert len(bench.kept) == 1
    assert len(bench.taken()) == 1


@pytest.mark.parametrize("given", ["producer", "publisher", "connection"])
def test_a_producer_that_was_given_is_used(bench: Bench, given: str) -> None:
    with bench.app.connection_for_write() as connection:
        value = connection if given == "connection" else bench.app.amqp.Producer(connection)
        bench.publish(**{given: value})
    assert (len(bench.kept), len(bench.taken())) == (1, 1)


def test_a_group_of_them_keeps_each(bench: Bench) -> None:
    """A canvas hands its own producer from part to part."""
    kept = {}

    @bench.app.task(name="submit", bind=True)
    def submit(self: Any) -> None: ...

    def apply_async(args: Any = None, kwargs: Any = None, task_id: str = "", **options: Any) -> Any:
        _, more = split_options(options)
        facts = {**FACTS, "id": task_id}
        bench.broker.publish(facts, lambda message: kept.update({task_id: message}), queue="q", **more)
        return bench.app.AsyncResult(task_id)

    submit.apply_async = apply_async
    made = group(submit.s(), submit.s()).apply_async()
    assert {message.headers["group"] for message in kept.values()} == {made.id}
    assert len(bench.taken()) == 2
    last = chain(submit.s(), submit.s()).apply_async()
    assert kept[last.parent.id].body[2]["chain"][0]["options"]["task_id"] == last.id
    bench.taken()


@pytest.mark.parametrize("text", [b"", b"{tor", b"[]", b'{"schema": 1}', b'{"schema": "x", "body": 1}', b"\xff"])
def test_a_message_that_cannot_be_read_is_said(text: bytes) -> None:
    with pytest.raises(MessageLost, match="not readable"):
        Message.from_json(text)


def test_a_message_of_a_newer_version_is_said() -> None:
    with pytest.raises(MessageLost, match="upgrade"):
        Message.from_json(b'{"schema": 99, "body": [], "headers": {}}')


def test_a_delay_that_rabbitmq_counts_down_does_not_begin_anew() -> None:
    """Its exchange is left out: the time until which it waits is in the headers."""
    made = Message.of([], {"id": "e", "eta": "x"}, {"exchange": Exchange("celery_delayed_27"), "routing_key": "0.1.q"})
    assert made.options == {}
    kept = Message.of([], {"id": "e"}, {"exchange": Exchange("own", "topic"), "routing_key": "a.b"})
    assert kept.options == {"exchange": "own", "routing_key": "a.b"}

"""The transport on a bad network, on a server that stumbles, and with keys that may not do everything.

Consumers and publishers *here* reach the local broker through two proxies, those *there* directly: a process elsewhere.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from cut_proxy import CutProxy
from fault_proxy import FaultProxy
from fault_rules import Action, Answer, Call, Delay, LoseAnswer, Swallow
from grpc import StatusCode
from kombu import Connection, Queue
from pubsub_client import PubSub
from studio import wait_for
from test_pubsub_bench import GPU, Broker, Taker

from transports.errors import NotAuthenticated, PermissionMissing, QueueNotFound

#: Times at a twentieth, calls and leases longer: a busy machine is no fault to test.
QUICK = {
    "rpc_timeout_seconds": 1.5,
    "connect_timeout_seconds": 3.0,
    "publish_timeout_seconds": 5.0,
    "lease_floor_seconds": 5.0,
    "retry_ceiling_seconds": 0.5,
    "stream_heartbeat_seconds": 1.5,
    "watchdog_seconds": 1.5,
    "stream_lifetime_seconds": 45.0,
}
#: What publishes while calls are answered, late as that may be: none is made again because it took long.
PATIENT = {"rpc_timeout_seconds": 30.0, "publish_timeout_seconds": 60.0}
#: Seconds of a lease, and half a second more.
LEASE = 5.5
#: Seconds within which an error that cannot be waited out is raised, 5 on an idle machine; less than the life of a
#: stream, after which another one would be told.
RAISED = 40.0
#: Seconds that a busy machine may take longer.
BUSY = 20.0


class Field:
    """Both places, and what lies between this one and the broker."""

    def __init__(self, pubsub: PubSub, cable: CutProxy, proxy: FaultProxy) -> None:
        self.cable = cable
        self.proxy = proxy
        self.here = Broker(pubsub)
        self.there = Broker(pubsub)
        self.here.url = self.here.url.replace(pubsub.address, cable.address)
        #: Messages whose lease was lost here.
        self.lost: list[str] = []
        self._other: Taker | None = None

    def connect(self, **options: Any) -> Connection:
        return self.here.connect(**{**QUICK, "on_lease_lost": self.lost.append, **options})

    def taker(self, *, prefetch: int = 0, **options: Any) -> Taker:
        """A consumer here, whose stream is open."""
        before = len(self.proxy.streams())
        taker = Taker(self.connect(**options), GPU, prefetch=prefetch)
        wait_for("the stream", lambda: len(self.proxy.streams()) > before)
        return taker

    def publish(self, body: str, connection: Connection) -> None:
        connection.Producer().publish(body, routing_key="gpu", declare=[GPU])

    def renewals(self) -> list[Call]:
        return [call for call in self.proxy.calls("ModifyAckDeadline", code=StatusCode.OK) if call.seconds]

    def wait_for_renewals(self, count: int = 1) -> None:
        """Wait until so many more renewals were confirmed."""
        before = len(self.renewals())
        wait_for(f"{count} renewals", lambda: len(self.renewals()) >= before + count)

    def wait_for_acknowledgement(self) -> None:
        wait_for("the acknowledgement", lambda: self.proxy.calls("Acknowledge", code=StatusCode.OK))

    def ack_ids(self) -> set[str]:
        """The deliveries that were leased here: a second one of the same message is another one."""
        return {ack_id for call in self.renewals() for ack_id in call.ack_ids}

    def nothing_comes_there(self, seconds: float = LEASE) -> bool:
        """Say whether a consumer elsewhere, the same each time, has got nothing when so much time has gone by."""
        self._other = self._other or self.there.taker(GPU)
        return self._other.gets_nothing(seconds) and not self._other.messages


@pytest.fixture
def field(local_pubsub: PubSub) -> Iterator[Field]:
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(local_pubsub.address))
        cable = stack.enter_context(CutProxy(proxy.address))
        found = Field(local_pubsub, cable, proxy)
        stack.enter_context(found.there)
        stack.enter_context(found.here)
        stack.callback(proxy.clear)
        stack.callback(cable.restore)
        yield found


def interrupt(field: Field, fault: str) -> None:
    """Have the network fail: "cut" or "freeze"."""
    getattr(field.cable, fault)()


both_faults = pytest.mark.parametrize("fault", ["cut", "freeze"])


class TestNetwork:
    @both_faults
    def test_a_cut_that_is_shorter_than_the_lease_costs_nothing(self, field: Field, fault: str) -> None:
        field.there.publish("a")
        taker = field.taker(lease_floor_seconds=12)
        (message,) = taker.take()
        field.wait_for_renewals()
        interrupt(field, fault)
        began = time.monotonic()
        assert field.nothing_comes_there(4)
        field.cable.restore()
        field.wait_for_renewals()
        assert field.nothing_comes_there(began + 13 - time.monotonic())
        message.ack()
        field.wait_for_acknowledgement()
        assert field.lost == []
        assert len(field.ack_ids()) == 1

    @both_faults
    def test_after_a_cut_that_outlasts_the_lease_a_redelivery_replaces_it(self, field: Field, fault: str) -> None:
        field.there.publish("a")
        taker = field.taker()
        (message,) = taker.take()
        field.wait_for_renewals()
        other = field.there.taker(GPU)
        interrupt(field, fault)
        (elsewhere,) = other.take()
        assert elsewhere.payload == "a"
        wait_for("the news of the loss", lambda: field.lost)
        field.cable.restore()
        field.wait_for_renewals()
        wait_for("the stream", field.proxy.streams)
        known = {ack_id for call in field.proxy.calls("ModifyAckDeadline") for ack_id in call.ack_ids}
        other.consumer.cancel()
        elsewhere.requeue()
        wait_for("the new lease", lambda: not known.issuperset(field.renewals()[-1].ack_ids))
        assert taker.gets_nothing()
        assert field.lost == [message.lease.message_id]
        assert field.nothing_comes_there()
        taker.consumer.cancel()
        message.ack()
        field.wait_for_acknowledgement()
        assert not known.issuperset(field.proxy.calls("Acknowledge")[-1].ack_ids)
        assert field.nothing_comes_there()

    @both_faults
    def test_a_publish_that_is_interrupted_is_repeated(self, field: Field, fault: str) -> None:
        connection = field.connect(publish_timeout_seconds=60)
        field.publish("first", connection)
        field.proxy.rule("Publish", Delay(60), times=1)
        with ThreadPoolExecutor() as pool:
            publishing: Future[None] = pool.submit(field.publish, "second", connection)
            wait_for("the publish", lambda: len(field.proxy.calls("Publish")) == 2)
            interrupt(field, fault)
            field.cable.restore()
            publishing.result(90)
        assert sorted(field.there.taker(GPU).bodies(2)) == ["first", "second"]

    @both_faults
    def test_a_publish_that_nobody_confirms_raises_in_time(self, field: Field, fault: str) -> None:
        connection = field.connect()
        field.publish("first", connection)
        interrupt(field, fault)
        began = time.monotonic()
        with pytest.raises(connection.connection_errors):
            field.publish("second", connection)
        assert time.monotonic() - began < QUICK["publish_timeout_seconds"] + BUSY
        field.cable.restore()
        connection.Producer().publish("third", routing_key="gpu", timeout=60)
        taker = field.there.taker(GPU)
        wait_for("what was published again", lambda: "third" in taker.bodies(1))

    @both_faults
    def test_a_consumer_goes_on_after_an_interruption(self, field: Field, fault: str) -> None:
        taker = field.taker()
        interrupt(field, fault)
        assert taker.gets_nothing(2 * QUICK["watchdog_seconds"])
        field.there.publish("a")
        field.cable.restore()
        # What was sent into the frozen stream comes again when the lease of that stream has ended.
        assert taker.bodies(1) == ["a"]

    def test_a_dead_connection_is_noticed_and_replaced(self, field: Field) -> None:
        taker = field.taker()
        field.cable.forget()
        field.there.publish("a")
        began = time.monotonic()
        assert taker.bodies(1) == ["a"]
        assert time.monotonic() - began < QUICK["watchdog_seconds"] + QUICK["connect_timeout_seconds"] + BUSY

    def test_a_dead_connection_is_replaced_although_others_share_it(self, field: Field) -> None:
        taker = field.taker()
        field.publish("a", field.connect(connect_timeout_seconds=3.5))
        assert taker.bodies(1) == ["a"]
        field.cable.forget()
        field.there.publish("b")
        began = time.monotonic()
        assert taker.bodies(1) == ["b"]
        assert time.monotonic() - began < QUICK["watchdog_seconds"] + QUICK["connect_timeout_seconds"] + BUSY

    def test_a_publisher_gets_over_a_dead_connection(self, field: Field) -> None:
        connection = field.connect(publish_timeout_seconds=60)
        field.publish("a", connection)
        field.cable.forget()
        field.publish("b", connection)
        assert sorted(field.there.taker(GPU).bodies(2)) == ["a", "b"]

    @pytest.mark.parametrize(("prefetch", "lifetime"), [(0, 45), (1, 3)], ids=["stream open", "no stream"])
    def test_a_lease_outlives_a_dead_connection(self, field: Field, prefetch: int, lifetime: float) -> None:
        taker = field.taker(prefetch=prefetch, lease_floor_seconds=12, stream_lifetime_seconds=lifetime)
        field.there.publish("a")
        (message,) = taker.take()
        wait_for("the stream, or its end", lambda: bool(field.proxy.streams()) == (not prefetch))
        field.wait_for_renewals()
        field.cable.forget()
        began = time.monotonic()
        assert field.nothing_comes_there(13)
        assert field.renewals()[-1].at > began
        message.ack()
        field.wait_for_acknowledgement()
        assert field.lost == []


class TestPublishing:
    @pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.ABORTED, StatusCode.RESOURCE_EXHAUSTED])
    def test_what_may_succeed_is_repeated(self, field: Field, code: StatusCode) -> None:
        field.proxy.rule("Publish", Answer(code), times=3)
        field.publish("a", field.connect(**PATIENT))
        assert [call.code for call in field.proxy.calls("Publish")] == [code, code, code, StatusCode.OK]
        taker = field.there.taker(GPU)
        assert taker.bodies(1) == ["a"]
        assert taker.gets_nothing()

    def test_a_publish_whose_answer_is_lost_arrives_at_least_once(self, field: Field) -> None:
        field.proxy.rule("Publish", LoseAnswer(), times=1)
        field.publish("a", field.connect(**PATIENT))
        assert [call.code for call in field.proxy.calls("Publish")] == [StatusCode.UNAVAILABLE, StatusCode.OK]
        assert field.there.taker(GPU).bodies(2) == ["a", "a"]

    def test_a_publish_that_is_swallowed_is_repeated(self, field: Field) -> None:
        field.proxy.rule("Publish", Swallow(), times=1)
        field.publish("a", field.connect(publish_timeout_seconds=60))
        assert field.there.taker(GPU).bodies(1) == ["a"]


class TestAcknowledging:
    @pytest.mark.parametrize(
        "action",
        [
            pytest.param(LoseAnswer(), id="answer lost"),
            pytest.param(Answer(StatusCode.UNAVAILABLE), id="unavailable"),
            pytest.param(Answer(StatusCode.PERMISSION_DENIED), id="denied"),
            pytest.param(Answer(StatusCode.UNAUTHENTICATED), id="unauthenticated"),
            pytest.param(Swallow(), id="swallowed"),
        ],
    )
    def test_it_is_repeated_until_it_is_confirmed(self, field: Field, action: Action) -> None:
        field.there.publish("a")
        taker = field.taker()
        (message,) = taker.take()
        taker.consumer.cancel()
        field.wait_for_renewals()
        rule = field.proxy.rule("Acknowledge", action)
        message.ack()
        wait_for("three attempts", lambda: len(field.proxy.calls("Acknowledge")) >= 3)
        assert field.nothing_comes_there()
        rule.end()
        field.wait_for_acknowledgement()
        assert field.nothing_comes_there()
        assert field.lost == []

    def test_a_lease_whose_renewals_are_refused_for_a_while_is_kept(self, field: Field) -> None:
        field.there.publish("a")
        taker = field.taker(lease_floor_seconds=12)
        (message,) = taker.take()
        taker.consumer.cancel()
        field.wait_for_renewals()
        rule = field.proxy.rule("ModifyAckDeadline", Answer(StatusCode.PERMISSION_DENIED))
        denied = StatusCode.PERMISSION_DENIED
        wait_for("two refusals", lambda: len(field.proxy.calls("ModifyAckDeadline", code=denied)) >= 2)
        rule.end()
        field.wait_for_renewals()
        assert field.nothing_comes_there(13)
        message.ack()
        field.wait_for_acknowledgement()
        assert field.lost == []


class TestReading:
    @pytest.mark.parametrize(
        "code", [StatusCode.RESOURCE_EXHAUSTED, StatusCode.ABORTED, StatusCode.INTERNAL, StatusCode.UNAVAILABLE]
    )
    def test_a_stumbling_server_is_asked_again(self, field: Field, code: StatusCode) -> None:
        taker = field.taker()
        field.proxy.rule("StreamingPull", Answer(code), times=3)
        field.proxy.end_streams(code)
        field.there.publish("a")
        assert taker.bodies(1) == ["a"]
        refused = field.proxy.calls("StreamingPull", code=code)
        assert len(refused) == 4

    def test_a_stream_that_ends_regularly_is_opened_anew(self, field: Field) -> None:
        taker = field.taker()
        field.proxy.end_streams()
        field.there.publish("a")
        assert taker.bodies(1) == ["a"]

    def test_what_a_stream_brought_before_it_broke_is_kept(self, field: Field) -> None:
        field.there.publish("a")
        taker = field.taker()
        (message,) = taker.take()
        field.wait_for_renewals()
        field.proxy.end_streams(StatusCode.UNAVAILABLE)
        assert field.nothing_comes_there(2 * LEASE)
        message.ack()
        field.wait_for_acknowledgement()
        assert len(field.ack_ids()) == 1

    @pytest.mark.parametrize(
        ("code", "error"),
        [
            (StatusCode.NOT_FOUND, QueueNotFound),
            (StatusCode.PERMISSION_DENIED, PermissionMissing),
            (StatusCode.UNAUTHENTICATED, NotAuthenticated),
        ],
    )
    def test_what_cannot_be_waited_out_is_raised(self, field: Field, code: StatusCode, error: type[Exception]) -> None:
        taker = field.taker()
        field.proxy.rule("StreamingPull", Answer(code))
        field.proxy.end_streams(code)
        with pytest.raises(error):
            taker.connection.drain_events(timeout=RAISED)

    def test_a_queue_that_is_missing_for_a_moment_is_waited_for(self, field: Field) -> None:
        taker = field.taker()
        field.proxy.rule("StreamingPull", Answer(StatusCode.NOT_FOUND), times=2)
        field.proxy.end_streams(StatusCode.NOT_FOUND)
        field.there.publish("a")
        assert taker.bodies(1) == ["a"]

    def test_a_silent_stream_is_opened_anew_at_its_age(self, field: Field) -> None:
        taker = field.taker(stream_lifetime_seconds=3)
        assert field.proxy.silence_streams() == 1
        field.there.publish("a")
        began = time.monotonic()
        assert taker.bodies(1) == ["a"]
        assert time.monotonic() - began < 3 + QUICK["watchdog_seconds"] + BUSY

    def test_a_server_that_answers_nothing_any_more_is_connected_to_anew(self, field: Field) -> None:
        taker = field.taker()
        field.proxy.silence_streams()
        rule = field.proxy.rule("*", Swallow())
        wait_for("a question of the watchdog", lambda: field.proxy.calls("TestIamPermissions")[1:])
        field.there.publish("a")
        rule.end()
        began = time.monotonic()
        assert taker.bodies(1) == ["a"]
        assert time.monotonic() - began < QUICK["watchdog_seconds"] + QUICK["connect_timeout_seconds"] + BUSY


class TestRoles:
    def test_a_publisher_publishes_to_a_queue_that_exists(self, field: Field, caplog: pytest.LogCaptureFixture) -> None:
        with Connection(field.there.url) as connection:
            GPU(connection.channel()).declare()
        field.proxy.only("publisher")
        with caplog.at_level(logging.WARNING, "transports"):
            connection = field.connect(**PATIENT)
            field.publish("a", connection)
            field.publish("b", connection)
        (said,) = [record.message for record in caplog.records]
        assert "pubsub.topics.create" in said
        assert "pubsub.subscriptions.create" in said
        assert sorted(field.there.taker(GPU).bodies(2)) == ["a", "b"]

    @pytest.mark.parametrize("declared", [[], [Queue("missing")]], ids=["undeclared", "declared"])
    def test_a_publisher_is_told_that_a_queue_is_missing(self, field: Field, declared: list[Queue]) -> None:
        field.proxy.only("publisher")
        with pytest.raises(QueueNotFound, match=r"celery-missing does not exist .* declare its queue"):
            field.connect().Producer().publish("a", routing_key="missing", declare=declared)

    def test_a_publisher_is_told_that_it_may_not_consume(self, field: Field) -> None:
        field.there.publish("a")
        field.proxy.only("publisher")
        taker = Taker(field.connect(), GPU)
        with pytest.raises(PermissionMissing, match=r"pubsub\.subscriptions\.consume"):
            taker.connection.drain_events(timeout=RAISED)

    def test_a_subscriber_consumes_and_settles(self, field: Field) -> None:
        field.there.publish("acknowledged", "rejected", "requeued", "deferred")
        field.proxy.only("subscriber")
        taker = field.taker()
        messages = {message.payload: message for message in taker.take(4)}
        messages["acknowledged"].ack()
        messages["rejected"].reject()
        messages["deferred"].defer(5)
        messages["requeued"].requeue()
        deferred_at = time.monotonic()
        assert taker.bodies(2) == ["requeued", "deferred"]
        assert time.monotonic() - deferred_at > 1
        wait_for("four acknowledgements", lambda: len(_acknowledged(field)) == 4)
        taker.consumer.cancel()
        assert field.nothing_comes_there()

    def test_a_subscriber_is_told_that_it_may_not_publish(self, field: Field) -> None:
        field.there.publish("a")
        field.proxy.only("subscriber")
        with pytest.raises(PermissionMissing, match=r"pubsub\.topics\.publish"):
            field.publish("b", field.connect())

    def test_a_subscriber_is_told_that_its_queue_is_missing(self, field: Field) -> None:
        field.proxy.only("subscriber")
        taker = Taker(field.connect(), Queue("missing"))
        with pytest.raises(QueueNotFound, match="celery-missing does not exist"):
            taker.connection.drain_events(timeout=RAISED)


def _acknowledged(field: Field) -> set[str]:
    """The ack ids whose acknowledgement was confirmed."""
    return {ack_id for call in field.proxy.calls("Acknowledge", code=StatusCode.OK) for ack_id in call.ack_ids}

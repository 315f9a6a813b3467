"""What went wrong in kombu's own Pub/Sub transport, defect by defect, does not go wrong here.

The numbers are those of our review of it. `PROVEN` names the tests that show it elsewhere; the others are below.
"""

from __future__ import annotations

import ast
import re
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
from fault_rules import Delay, Swallow
from kombu import Exchange, Queue
from pubsub_client import PubSub
from studio import wait_for
from test_pubsub_bench import GPU, LIMIT, Broker, Taker

HERE = Path(__file__)
DAY = 86400
#: Defect, and where it is shown that we do not have it: file and test, both without their `test_`.
PROVEN = """
# Publishing did not wait for the server: who published and ended lost the message.
 1 pubsub_publishing a_process_that_publishes_and_ends_at_once_loses_nothing
# No error of a publish was ever raised.
 2 pubsub_publishing publishing_to_a_missing_queue_raises
 2 pubsub_outage a_key_that_may_not_publish_is_told
 2 pubsub_faults a_publish_that_nobody_confirms_raises_in_time
# The second binding of a queue sent all its messages to nowhere.
 5 pubsub_publishing a_queue_of_two_routes_gets_both
 5 pubsub_exchanges a_queue_of_three_exchanges_gets_from_all
# The default exchange did not work.
 6 pubsub_publishing a_queue_gets_what_its_own_exchange_and_the_default_one_get
 6 celery_canvas a_result_and_an_error_come_back
# Another declaration of a queue, or closing the first channel, ended the renewal of all leases.
 9 pubsub_holding neither_a_new_declaration_nor_a_closed_channel_ends_a_lease
10 pubsub_holding neither_a_new_declaration_nor_a_closed_channel_ends_a_lease
10 unit/pubsub_keeper an_error_of_our_own_does_not_end_the_keeper
# A channel that was closed twice counted as two.
12 pubsub_holding closing_twice_is_once
# Nobody was told of a lease that was lost.
13 pubsub_exactly_once the_acknowledgement_of_a_lost_lease_is_told_and_the_message_stays_the_others
13 pubsub_exactly_once a_lost_lease_is_noticed_when_it_is_renewed
13 pubsub_outage a_lease_that_could_not_be_renewed_is_told
# An acknowledgement that failed was forgotten.
14 pubsub_faults it_is_repeated_until_it_is_confirmed
14 unit/pubsub_keeper an_acknowledgement_is_repeated_until_it_is_confirmed
# Tasks for later were hoarded in the worker's memory.
16 pubsub_schedule one_far_in_the_future_takes_neither_slot_nor_memory
16 pubsub_schedule one_that_would_outlive_its_retention_is_published_anew_once
16 celery_canvas tasks_for_later_are_not_held_by_the_worker
# A rejected message came back; a requeued one came back twice; one without acknowledgement too.
17 pubsub_receiving a_rejected_message_is_gone
18 pubsub_receiving a_requeued_message_returns_at_once_and_once
18 pubsub_receiving recovering_gives_everything_back
19 pubsub_receiving consumers_without_acknowledgement_never_see_it_again
# What was on its way to a cancelled consumer, or to a process that ended, stayed leased.
20 pubsub_receiving what_was_not_dispatched_is_given_back_when_the_consumer_is_cancelled
21 pubsub_holding what_an_ended_process_held_is_redelivered_at_once
21 celery_pools what_a_stopping_worker_did_not_begin_is_with_another_when_it_ends
# One message that could not be read blocked its neighbours.
22 pubsub_dead_letters what_nobody_can_read_goes_to_the_dead_letters_and_its_neighbours_are_delivered
# Each queue of a consumer took as many messages as all of them together might.
23 pubsub_receiving prefetch_is_exact_over_three_queues
23 pubsub_priorities of_all_steps_of_three_queues_one_message_is_kept_and_the_others_are_back_at_once
# It did not work with Celery's event loop: pools hung, and a worker that was stopped took another task.
24 unit/pubsub_transport it_says_what_it_can_do
24 celery_pools all_tasks_that_run_past_their_limit_are_ended
24 celery_worker a_worker_told_to_stop_finishes_its_task_and_takes_no_other
# Stopping took as long as a pull.
25 pubsub_holding a_process_with_open_streams_ends_quickly
25 celery_pools an_idle_worker_stops_soon
# A missing subscription or permission looked like an empty queue.
26 pubsub_receiving consuming_a_queue_that_is_missing_and_not_ours_raises
26 pubsub_outage a_key_that_may_not_read_is_told_where_messages_are_consumed
26 pubsub_outage a_key_revoked_later_is_a_connection_error_where_messages_are_consumed
# Draining without time never returned.
27 pubsub_receiving draining_with_no_time_returns_at_once
# Applications shared topics whatever their prefix, and names collided.
29 pubsub_publishing prefixes_keep_applications_apart
29 unit/pubsub_names names_are_legal_and_lead_back
# Several queues on one key got several copies.
31 pubsub_exchanges many_queues_on_one_key_get_one_copy_each
# Remote control left subscriptions behind.
33 celery_control requests_leave_nothing_behind
33 pubsub_publishing temporary_queues_go_with_their_channel
# Consumers of a broadcast on one host with one process id shared a copy; here a queue's name tells them apart.
35 pubsub_publishing a_broadcast_reaches_every_queue
# Publishers needed all the rights of consumers, and consumers those of administrators.
36 pubsub_faults a_publisher_publishes_to_a_queue_that_exists
36 pubsub_faults a_subscriber_consumes_and_settles
# The size of a full queue was given as 0.
37 pubsub_monitoring the_newest_value_of_each_subscription_is_given
37 pubsub_sizes a_queue_is_not_deleted_on_a_condition_that_nobody_knows
# The URL said nothing but the project.
39 unit/pubsub_url a_url_names_an_address
# Much was missing: topic exchanges, priorities, expiry, delays, dead letters, raw bodies, passive declaration.
40 pubsub_exchanges each_queue_gets_what_its_pattern_matches
40 pubsub_priorities the_higher_priority_comes_first_out_of_a_backlog
40 pubsub_schedule a_message_that_expired_is_not_delivered
40 pubsub_schedule one_is_delivered_on_time_and_never_early
40 pubsub_dead_letters a_message_that_is_given_back_again_and_again_is_set_aside
40 pubsub_dead_letters how_often_it_was_given_back_is_seen_as_redelivered
40 unit/pubsub_payload bytes_are_written_as_they_are
40 pubsub_publishing looking_for_a_missing_queue_raises_and_for_one_that_is_there_does_not
40 pubsub_publishing deleting_a_queue_deletes_topic_and_subscription
40 pubsub_publishing strange_names_work
# Forked children that published hung.
41 pubsub_holding forked_children_publish_while_the_parent_consumes
41 celery_pools children_that_live_for_one_task_publish
"""
PROOFS = [line.split() for line in PROVEN.split("\n") if line and not line.startswith("#")]


@pytest.fixture
def broker(pubsub: PubSub) -> Iterator[Broker]:
    """A project of its own on each server."""
    with Broker(pubsub) as found:
        yield found


@pytest.mark.parametrize(("file", "name"), sorted({(file, name) for _, file, name in PROOFS}))
def test_what_is_named_as_a_proof_exists(file: str, name: str) -> None:
    folder, _, module = file.rpartition("/")
    path = HERE.parents[1] / (folder or "integration") / f"test_{module}.py"
    assert f"test_{name}" in _functions(path)


def test_every_defect_has_a_proof() -> None:
    elsewhere = {int(number) for number, _, _ in PROOFS}
    here = {int(found[1]) for name in _functions(HERE) if (found := re.match(r"test_(\d\d)_", name))}
    assert not here & elsewhere
    assert here | elsewhere == set(range(1, 42))


def test_03_a_queue_that_nobody_reads_for_a_weekend_is_still_there(broker: Broker) -> None:
    Queue("gpu", max_priority=1)(broker.connect().channel()).declare()
    listed = list(broker.pubsub.subscriber.list_subscriptions(project=broker.pubsub.project))
    assert len(listed) == 2
    assert not any(each.expiration_policy.ttl for each in listed)


def test_04_a_message_is_kept_for_as_long_as_the_server_can(broker: Broker, request: pytest.FixtureRequest) -> None:
    broker.publish("x")
    found = broker.pubsub.subscriber.get_subscription(subscription=broker.pubsub.subscription("celery-gpu"))
    is_emulator = "emulator" in request.node.name
    assert found.message_retention_duration.total_seconds() == (7 if is_emulator else 31) * DAY
    session = broker.connect().connection
    assert session.retention_seconds("gpu") == (7 if is_emulator else 31) * DAY


def test_04_how_long_a_queue_keeps_messages_is_asked_of_the_server(broker: Broker) -> None:
    """It was created by somebody with other options; of one that does not exist it is what it would be created with."""
    Queue("gpu")(broker.connect(retention_seconds=600).channel()).declare()
    session = broker.connect(retention_seconds=1200).connection
    assert (session.retention_seconds("gpu"), session.retention_seconds("none")) == (600, 1200)


@pytest.mark.parametrize("mode", [1, 2, None])
def test_07_a_transient_message_is_not_acknowledged_before_it_is_done(broker: Broker, mode: int | None) -> None:
    channel = broker.connect().channel()
    GPU(channel).declare()
    properties = {} if mode is None else {"delivery_mode": mode}
    channel.basic_publish(channel.prepare_message("x", properties=properties), routing_key="gpu")
    taker = broker.taker(GPU)
    taker.take()[0].requeue()
    (again,) = taker.take()
    assert again.body in ("x", b"x")


def test_08_a_shared_queue_of_a_broadcast_is_shared_and_hears_while_nobody_listens(broker: Broker) -> None:
    news = Queue("audit", Exchange("news", type="fanout"))
    broker.taker(news).connection.release()
    producer = broker.connect().Producer()
    for number in range(4):
        producer.publish(number, exchange=news.exchange, declare=[news.exchange])
    one, two = broker.taker(news, prefetch=2), broker.taker(news, prefetch=2)
    assert sorted(each.payload for each in [*one.take(2), *two.take(2)]) == [0, 1, 2, 3]
    assert one.gets_nothing()


def test_11_queues_that_appear_while_a_message_is_held_do_not_cost_its_lease(broker: Broker) -> None:
    broker.publish("x")
    taker = broker.taker(GPU, prefetch=1)
    (message,) = taker.take()
    stop = threading.Event()

    def declare(number: int) -> None:
        with broker.connect() as connection:
            while not stop.wait(0.05):
                Queue(f"q{number}-{time.monotonic_ns()}", auto_delete=True)(connection.default_channel).declare()

    threads = [threading.Thread(target=declare, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    other = broker.taker(GPU)
    quiet = other.gets_nothing(7)
    stop.set()
    for thread in threads:
        thread.join()
    assert quiet
    message.ack()


def test_15_a_subscription_that_was_made_with_a_short_deadline_redelivers_nothing(broker: Broker) -> None:
    broker.pubsub.setup("celery-gpu", topic="celery-gpu", ack_deadline_seconds=10)
    broker.publish("x")
    (message,) = broker.taker(GPU, prefetch=1).take()
    assert broker.taker(GPU).gets_nothing(13)
    message.ack()


def test_15_a_queue_whose_leases_are_renewed_slowly_does_not_cost_those_of_others(broker: Broker) -> None:
    with broker.through_proxy(rpc_timeout_seconds=1.0) as (proxy, connection):
        for name in ("slow", "gpu"):
            broker.publish("x", queue=name)
        proxy.rule("ModifyAckDeadline", Swallow(), resource="*/celery-slow")
        taker = Taker(connection, Queue("slow"), GPU)
        messages = taker.take(2)
        assert broker.taker(GPU).gets_nothing(7)
        for message in messages:
            message.ack()


def test_28_acknowledging_does_not_wait_for_the_server_and_many_go_together(broker: Broker) -> None:
    with broker.through_proxy() as (proxy, connection):
        broker.publish(*range(50))
        taker = Taker(connection, GPU)
        messages = taker.take(50)
        rule = proxy.rule("Acknowledge", Delay(2))
        began = time.monotonic()
        for message in messages:
            message.ack()
        # One after the other they would take 100 s.
        assert time.monotonic() - began < 20
        rule.end()
        assert taker.channel.link.keeper.flush(LIMIT)
        calls = proxy.calls("Acknowledge")
        assert sum(len(call.ack_ids) for call in calls) == 50
        assert len(calls) < 10


def test_30_declaring_again_asks_the_server_nothing_and_changes_no_subscription(broker: Broker) -> None:
    with broker.through_proxy() as (proxy, connection):
        queue = Queue("gpu", Exchange("jobs"), routing_key="k")
        queue(connection.channel()).declare()
        made = len(proxy.calls())
        queue(connection.channel()).declare()
        assert len(proxy.calls()) == made
        assert not proxy.calls("UpdateSubscription")
        assert not proxy.calls("Get*")


def test_32_who_only_publishes_creates_nothing(broker: Broker) -> None:
    fanout = Exchange("news", type="fanout")
    hearer = broker.taker(Queue("hearer", fanout, auto_delete=True), Queue("gpu", Exchange("jobs"), routing_key="k"))
    before = broker.resources()
    code = """
        with Connection(URL, transport_options=FAST) as connection:
            producer = connection.Producer()
            news = Exchange("news", type="fanout")
            producer.publish("news", exchange=news, declare=[news])
            producer.publish("job", exchange="jobs", routing_key="k")
    """
    with broker.run(code) as process:
        assert process.wait(LIMIT) == 0
    assert sorted(hearer.bodies(2)) == ["job", "news"]
    assert broker.resources() == before


def test_34_closing_a_channel_leaves_the_temporary_queues_of_others_alone(broker: Broker) -> None:
    fanout = Exchange("news", type="fanout")
    mine, others = (broker.taker(Queue(name, fanout, auto_delete=True)) for name in ("mine", "others"))
    others.connection.release()
    broker.connect().Producer().publish("x", exchange=fanout)
    assert mine.bodies(1) == ["x"]


def test_38_settling_what_was_in_a_deleted_queue_frees_its_slot(broker: Broker) -> None:
    broker.publish("gone", queue="old")
    broker.publish("next")
    taker = broker.taker(Queue("old"), prefetch=1)
    (message,) = taker.take()
    taker.consumer.cancel()
    broker.connect().channel().queue_delete("old")
    message.ack()
    taker.consumer.add_queue(GPU)
    taker.consumer.consume()
    assert taker.bodies(1) == ["next"]
    wait_for("the end of the acknowledgement", lambda: taker.channel.link.keeper.flush(1))


@lru_cache
def _functions(file: Path) -> frozenset[str]:
    """The names of all functions in a file."""
    nodes = ast.walk(ast.parse(file.read_text()))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef))

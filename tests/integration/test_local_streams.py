"""Streams of the local broker: what is handed over at once from both sides, and clients that answer no more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from queue import SimpleQueue

from google.pubsub_v1 import types
from pubsub_client import LIMIT_SECONDS, PubSub, texts
from pubsub_servers import broker_process
from studio import wait_for

from transports.local import statistics

#: A client that has a stream and waits for messages.
CLIENT = """
import sys
from google.pubsub_v1 import types
from pubsub_client import PubSub
subscription = sys.argv[2]
with PubSub(sys.argv[1]) as server, server.stream(subscription) as stream:
    stream.end()
"""


def test_a_stream_may_acknowledge_while_messages_come(local_pubsub: PubSub) -> None:
    subscription = local_pubsub.setup(enable_exactly_once_delivery=True)
    for _ in range(6):
        local_pubsub.publish(*["x" * 20_000] * 200)
    requests: SimpleQueue[types.StreamingPullRequest | None] = SimpleQueue()
    requests.put(types.StreamingPullRequest(subscription=subscription, stream_ack_deadline_seconds=600))
    call = local_pubsub.subscriber.streaming_pull(iter(requests.get, None), retry=None, timeout=5 * LIMIT_SECONDS)
    responses = iter(call)
    sent, confirmed = set(), set()
    acknowledged = [each.ack_id for each in next(responses).received_messages]
    # This client does not read meanwhile, so a write of the broker is under way when the confirmations are due.
    for ack_id in acknowledged:
        requests.put(types.StreamingPullRequest(ack_ids=[ack_id]))
    for response in responses:
        sent.update(each.message.message_id for each in response.received_messages)
        confirmed.update(response.acknowledge_confirmation.ack_ids)
        if len(sent) + len(acknowledged) == 1200 and confirmed.issuperset(acknowledged):
            break
    assert confirmed == set(acknowledged)
    requests.put(None)
    call.cancel()


def test_a_client_that_is_frozen_loses_its_stream_and_messages_go_to_others(tmp_path: Path) -> None:
    with broker_process(tmp_path, "--silence-seconds=6") as broker, PubSub(broker.address) as server:
        subscription = server.setup()
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, broker.address, subscription],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        try:
            wait_for("its stream", lambda: consumers(broker.address) == 1)
            client.send_signal(signal.SIGSTOP)
            wait_for("the end of its stream", lambda: consumers(broker.address) == 0)
            server.publish("one")
            assert texts(server.pull(subscription)) == ["one"]
        finally:
            client.kill()
            client.wait()


def consumers(address: str) -> int:
    return sum(each.consumers for each in statistics(address))

"""An answer comes after the commit, however long that takes: on a slow disk, the broker is killed at the answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from google.pubsub_v1 import types
from pubsub_client import PubSub, texts
from pubsub_servers import ServerProcess

#: A broker that takes a while for each commit; leases do not outlive it.
PROGRAM = """
import sys, time
from contextlib import contextmanager
from transports.local.storage import database
real = database.Database.transaction

@contextmanager
def slow(self, **options):
    with real(self, **options) as tables:
        yield tables
        time.sleep(0.2)

database.Database.transaction = slow
from transports.local.__main__ import main
sys.argv += ["--port=0", "--grace-seconds=0"]
sys.exit(main())
"""


@contextmanager
def killed_at_the_end(data: Path) -> Iterator[PubSub]:
    """A broker with a slow disk, and a client; what was answered inside was answered right before a SIGKILL."""
    process = ServerProcess([sys.executable, "-c", PROGRAM, f"--data={data}"], ready=r"^ready (\S+)")
    process.wait_until_ready()
    try:
        with PubSub(process.address) as server:
            server.project = "projects/slow"
            yield server
            process.kill()
    finally:
        process.kill()


def acknowledge_on_a_stream(server: PubSub, subscription: str) -> str:
    """Take one message and acknowledge it; return its text once the broker has confirmed that."""
    requests: SimpleQueue[types.StreamingPullRequest] = SimpleQueue()
    requests.put(types.StreamingPullRequest(subscription=subscription, stream_ack_deadline_seconds=600))
    text = ""
    for response in server.subscriber.streaming_pull(iter(requests.get, None), retry=None, timeout=60):
        if response.received_messages:
            text = texts(response.received_messages)[0]
            requests.put(types.StreamingPullRequest(ack_ids=[response.received_messages[0].ack_id]))
        if response.acknowledge_confirmation.ack_ids:
            break
    return text


def test_what_was_answered_is_on_disk(tmp_path: Path) -> None:
    with killed_at_the_end(tmp_path) as server:
        first = server.setup()
    with killed_at_the_end(tmp_path) as server:
        server.publish("one")
    with killed_at_the_end(tmp_path) as server:
        server.acknowledge(first, *server.pull(first))
    with killed_at_the_end(tmp_path) as server:
        assert server.ready(first) == []
        second = server.setup("second", enable_exactly_once_delivery=True)
        server.publish("two")
        assert acknowledge_on_a_stream(server, second) == "two"
    with killed_at_the_end(tmp_path) as server:
        assert server.ready(second) == []
        assert server.ready(first) == ["two"]
        server.subscriber.seek(request={"subscription": first, "time": "2100-01-01T00:00:00Z"})
    with killed_at_the_end(tmp_path) as server:
        assert server.ready(first) == []
        server.subscriber.delete_subscription(subscription=second)
    with killed_at_the_end(tmp_path) as server:
        assert [each.name for each in server.subscriber.list_subscriptions(project=server.project)] == [first]

"""What the tests of the transport share: a project on a server, and consumers that keep what they get; no tests."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from fault_proxy import FaultProxy
from kombu import Connection, Consumer, Queue
from kombu.message import Message
from pubsub_client import PubSub

import transports  # noqa: F401  registers the scheme
from transports.pubsub.link import links

#: Short leases, renewed so often that they outlive seconds in which a busy machine gives this process no time; what
#: connects or ends has as long as it needs.
FAST = {
    "lease_floor_seconds": 4.0,
    "lease_ceiling_seconds": 30.0,
    "renew_fraction": 0.1,
    "ack_deadline_seconds": 10,
    "connect_timeout_seconds": 30.0,
    "shutdown_timeout_seconds": 20.0,
}
#: Options of a consumer that says which priority comes first: longer than a busy machine takes for a stream's first
#: message.
SETTLED = {"priority_settle_seconds": 1.5}
#: Seconds for what must come.
LIMIT = 60.0
#: Seconds without a message after which none is on its way.
SILENCE = 1.0


class Taker:
    """Consumes queues on a channel of its own, and keeps what it is given."""

    def __init__(self, connection: Connection, *queues: Queue, prefetch: int = 0, no_ack: bool = False) -> None:
        self.connection = connection
        self.channel = connection.channel()
        self.messages: list[Message] = []
        self.channel.basic_qos(0, prefetch, False)
        self.consumer = Consumer(self.channel, list(queues), on_message=self.messages.append, no_ack=no_ack)
        self.consumer.consume()

    def take(self, count: int = 1, seconds: float = LIMIT) -> list[Message]:
        """Wait until so many more have come, and return them."""
        before = len(self.messages)
        while len(self.messages) < before + count:
            self.connection.drain_events(timeout=seconds)
        return self.messages[before:]

    def bodies(self, count: int, seconds: float = LIMIT) -> list[Any]:
        """Take so many, acknowledge them, and return what they say."""
        found = []
        for _ in range(count):
            (message,) = self.take(seconds=seconds)
            message.ack()
            found.append(message.payload)
        return found

    def gets_nothing(self, seconds: float = SILENCE) -> bool:
        before = len(self.messages)
        with suppress(socket.timeout):
            self.connection.drain_events(timeout=seconds)
        return len(self.messages) == before


class Broker:
    """A project of its own on one server, and connections to it that are closed at the end."""

    def __init__(self, pubsub: PubSub) -> None:
        self.pubsub = pubsub
        self.url = f"pubsub://{pubsub.address}/{pubsub.project.removeprefix('projects/')}"
        self._connections: list[Connection] = []

    def connect(self, query: str = "", **options: Any) -> Connection:
        connection = Connection(self.url + query, transport_options={**FAST, **options})
        self._connections.append(connection)
        # An attempt has five seconds; Google's emulator takes longer for its first connection on a busy machine.
        connection.ensure_connection(max_retries=10, interval_start=0.1, interval_step=0.2)
        return connection

    def taker(self, *queues: Queue, options: Mapping[str, Any] | None = None, **how: Any) -> Taker:
        """Consume on a connection of its own, with transport options of its own."""
        return Taker(self.connect(**(options or {})), *queues, **how)

    def publish(self, *bodies: Any, queue: str | Queue = "gpu", **how: Any) -> None:
        """Declare a queue and publish to it; `how` is for kombu's producer."""
        declared = queue if isinstance(queue, Queue) else Queue(queue)
        with Connection(self.url, transport_options=FAST) as connection:
            for body in bodies:
                connection.Producer().publish(body, **{"routing_key": declared.name, "declare": [declared], **how})

    def waiting(self, subscription: str) -> list[Any]:
        """What a subscription would deliver now, by its name in Pub/Sub; it is leased from then on."""
        return [json.loads(body)["body"] for body in self.pubsub.ready(self.pubsub.subscription(subscription))]

    @contextmanager
    def through_proxy(self, **options: Any) -> Iterator[tuple[FaultProxy, Connection]]:
        """A connection all of whose calls a proxy sees, and answers as it is told."""
        with FaultProxy(self.pubsub.address) as proxy:
            url = self.url.replace(self.pubsub.address, proxy.address)
            with Connection(url, transport_options={**FAST, **options}) as connection:
                yield proxy, connection
            links.close()

    def resources(self) -> set[str]:
        """The full names of all topics and subscriptions."""
        project = self.pubsub.project
        topics = {each.name for each in self.pubsub.publisher.list_topics(project=project)}
        return topics | {each.name for each in self.pubsub.subscriber.list_subscriptions(project=project)}

    @contextmanager
    def run(self, code: str) -> Iterator[subprocess.Popen[str]]:
        """A Python process that knows the URL; killed if it still runs at the end."""
        head = f"import os, sys, time, transports; from kombu import *; URL = {self.url!r}; FAST = {FAST!r}\n"
        command = [sys.executable, "-c", head + textwrap.dedent(code)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *exc: object) -> None:
        for connection in self._connections:
            connection.release()
        links.close()


GPU = Queue("gpu")

"""All that a process shares about one server: client, keeper of leases, topology, publisher.

Connections with the same address and options share a link, and it lives as long as the process: leases must not depend
on a connection. A forked child has links of its own; those of its parent are left alone there.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakSet

from transports.errors import TransportError
from transports.pubsub.dead.letters import DeadLetters
from transports.pubsub.leases.keeper import Keeper
from transports.pubsub.leases.requeues import Requeues
from transports.pubsub.options import Options
from transports.pubsub.publishing.publisher import Publisher
from transports.pubsub.receiving.alarm import Alarm
from transports.pubsub.receiving.watchdog import Watchdog
from transports.pubsub.server.client import Client
from transports.pubsub.server.sizes import Sizes
from transports.pubsub.server.url import Address
from transports.pubsub.topology.declared import Topology
from transports.pubsub.topology.names import Names
from transports.pubsub.topology.provision import Provision, sweep
from transports.pubsub.topology.upkeep import Upkeep

if TYPE_CHECKING:
    from transports.pubsub.session import Session

logger = logging.getLogger(__name__)


class Link:
    """One server, as this process sees it."""

    def __init__(self, address: Address, options: Options) -> None:
        self.address = address
        self.options = options
        self.names = Names(address.prefix)
        self.client = Client(address, options)
        self.keeper = Keeper(self.client, options)
        self.requeues = Requeues()
        self.provision = Provision(self.client, self.names, options)
        self.topology = Topology(self.provision, self.names, options)
        self.publisher = Publisher(self.client, self.topology, self.provision, options)
        self.dead_letters = DeadLetters(self.client, self.keeper, self.provision, options)
        self.upkeep = Upkeep(self.client, Sizes(self.client.calls), self.topology)
        self.alarm = Alarm()
        self.watchdog = Watchdog(self.client, options, sweep=lambda: sweep(self.client, address.prefix))
        self.client.calls.on_silence = self.watchdog.suspect
        #: Whether the server sends no more on a stream than it was told; believed until it does.
        self.limits_are_kept = True
        self.sessions: WeakSet[Session] = WeakSet()

    def close(self) -> None:
        """End everything within the time that `shutdown_timeout_seconds` gives."""
        ends_at = time.monotonic() + self.options.shutdown_timeout_seconds
        self.watchdog.close()
        self.alarm.close()
        try:
            for session in list(self.sessions):
                session.close(flush=False)
        finally:
            self.keeper.close(max(0.1, ends_at - time.monotonic()))
        if time.monotonic() < ends_at:
            self.topology.release_all()
        self.client.close()


class Links:
    """The links of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._links: dict[tuple[Address, Options], Link] = {}
        self._left_behind: list[Link] = []
        self._pid = 0

    def get(self, address: Address, options: Options) -> Link:
        with self._lock:
            self._watch()
            key = address, options
            if key not in self._links:
                self._links[key] = Link(address, options)
            return self._links[key]

    def close(self) -> None:
        for link in self._taken():
            try:
                link.close()
            except TransportError as exc:
                logger.warning("the connection to %s did not end cleanly: %s", link.address, exc)
            except Exception:
                logger.exception("the connection to %s did not end cleanly", link.address)

    def _taken(self) -> list[Link]:
        with self._lock:
            links = list(self._links.values())
            self._links.clear()
            return links

    def _watch(self) -> None:
        """See to forks, once per process tree, and to the end of each process."""
        if self._pid == os.getpid():
            return
        if self._pid:
            _at_end_of_child(self.close)
        else:
            atexit.register(self.close)
            os.register_at_fork(before=self._park, after_in_parent=self._unpark, after_in_child=self._leave_behind)
        self._pid = os.getpid()

    def _park(self) -> None:
        for link in list(self._links.values()):
            link.client.calls.park()

    def _unpark(self) -> None:
        for link in list(self._links.values()):
            link.client.calls.unpark()

    def _leave_behind(self) -> None:
        # Kept, not dropped: gRPC objects of the parent must not be closed, nor garbage be collected, in a child.
        self._left_behind.extend(self._links.values())
        self._links = {}
        self._lock = threading.Lock()


def _at_end_of_child(call: Callable[[], None]) -> None:
    """Have something called when a child of a pool ends: such children leave `atexit` out.

    What a child leaves open also takes time to end, and Celery's pool waits five seconds for a child it saw ending.
    """
    for name in ("multiprocessing.util", "billiard.util"):
        if name in sys.modules:
            sys.modules[name].Finalize(None, call, exitpriority=10)


links = Links()

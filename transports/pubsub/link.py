"""All that a process shares about one server: client, keeper and topology.

Connections with the same address and options share a link, and it lives as long as the process: leases must not depend
on a connection. A forked child has links of its own; those of its parent are left alone there.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from typing import TYPE_CHECKING
from weakref import WeakSet

from transports.errors import TransportError
from transports.pubsub.client import Client
from transports.pubsub.keeper import Keeper
from transports.pubsub.names import Names
from transports.pubsub.options import Options
from transports.pubsub.topology import Topology
from transports.pubsub.url import Address

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
        self.topology = Topology(self.client, self.names, options)
        self.sessions: WeakSet[Session] = WeakSet()

    def close(self) -> None:
        """End everything within the time that `shutdown_timeout_seconds` gives."""
        ends_at = time.monotonic() + self.options.shutdown_timeout_seconds
        try:
            for session in list(self.sessions):
                session.close()
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
        """See to forks and to the end of the process; done once per process tree."""
        if self._pid:
            return
        self._pid = os.getpid()
        atexit.register(self.close)
        os.register_at_fork(before=self._park, after_in_parent=self._unpark, after_in_child=self._leave_behind)

    def _park(self) -> None:
        for link in list(self._links.values()):
            link.client.park()

    def _unpark(self) -> None:
        for link in list(self._links.values()):
            link.client.unpark()

    def _leave_behind(self) -> None:
        # Kept, not dropped: gRPC objects of the parent must not be closed, nor garbage be collected, in a child.
        self._left_behind.extend(self._links.values())
        self._links = {}
        self._lock = threading.Lock()


links = Links()

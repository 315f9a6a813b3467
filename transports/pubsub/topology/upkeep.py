"""Look at queues, empty them, delete them."""

from __future__ import annotations

import logging

from transports.errors import PermissionMissing, QueueNotFound, RequestRefused
from transports.pubsub.server.client import Client
from transports.pubsub.server.sizes import Size, Sizes
from transports.pubsub.topology.declared import Topology

logger = logging.getLogger(__name__)


class Upkeep:
    """Safe to use from any thread."""

    def __init__(self, client: Client, sizes: Sizes, topology: Topology) -> None:
        self._client = client
        self._sizes = sizes
        self._topology = topology

    def size(self, queue: str) -> Size | None:
        """Return how full a queue is, over all its subscriptions; None: that cannot be known."""
        names = [source.subscription for source in self._topology.sources(queue)]
        sizes = self._sizes.of(names)
        if sizes is None or len(sizes) < len(names):
            return None
        consumers = [size.consumers for size in sizes.values()]
        known = [count for count in consumers if count is not None]
        return Size(
            messages=sum(size.messages for size in sizes.values()),
            consumers=max(known, default=0) if len(known) == len(consumers) else None,
        )

    def retention_seconds(self, queue: str) -> float:
        """For how long the server keeps a message of a queue, the least of its subscriptions.

        What it cannot be asked for is what a queue is created with: of one that does not exist, or with credentials
        that may not look.
        """
        seconds = [self._topology.retention_seconds]
        for source in self._topology.sources(queue):
            try:
                seconds.append(self._client.retention_seconds(source.subscription))
            except (PermissionMissing, QueueNotFound) as exc:
                logger.info("for how long %s keeps messages cannot be asked: %s", source.subscription, exc)
        return min(seconds[1:] or seconds)

    def purge(self, queue: str) -> int:
        """Drop everything in a queue, also what is leased; return how much was waiting, or 0 if that is not known."""
        size = self.size(queue)
        for source in self._topology.sources(queue):
            self._client.seek_to_now(source.subscription)
        return 0 if size is None else size.messages

    def delete(self, queue: str, *, if_unused: bool = False, if_empty: bool = False) -> None:
        """Delete a queue.

        Raises:
            RequestRefused: It is used or not empty, or whether it is cannot be known.
        """
        size = self.size(queue) if if_unused or if_empty else None
        if if_unused and (size is None or size.consumers is None):
            raise RequestRefused(f"whether queue {queue!r} is used is not known: delete it without if_unused")
        if if_empty and size is None:
            raise RequestRefused(f"whether queue {queue!r} is empty is not known: delete it without if_empty")
        if size is not None and ((if_unused and size.consumers) or (if_empty and size.messages)):
            raise RequestRefused(
                f"queue {queue!r} was not deleted: it has {size.messages} messages and {size.consumers} consumers"
            )
        self._topology.delete_queue(queue)

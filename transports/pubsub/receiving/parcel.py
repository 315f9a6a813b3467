"""A delivery that was taken in: what the server sent, what it says, and the lease it is held under."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transports.pubsub.leases.ledger import Lease
from transports.pubsub.receiving.allotment import Allotment
from transports.pubsub.server.messages import Received


@dataclass(frozen=True)
class Parcel:
    """One kombu message, ready to be given to a consumer."""

    received: Received
    lease: Lease
    #: The kombu message, decoded.
    payload: dict[str, Any]
    #: Seconds until it may be delivered; 0 or less: now.
    due_in_seconds: float = 0.0
    #: The budget of the stream that brought it; None: it came by no stream.
    allotment: Allotment | None = None

    def settle(self) -> None:
        """Note in the budget of its stream that the server knows what became of it."""
        if self.allotment is not None:
            self.allotment.settle()

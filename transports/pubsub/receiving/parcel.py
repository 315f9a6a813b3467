"""A delivery that was taken in: what the server sent, what it says, and the lease it is held under."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transports.pubsub.leases.ledger import Lease
from transports.pubsub.server.stream import Received


@dataclass(frozen=True)
class Parcel:
    """One kombu message, ready to be given to a consumer."""

    received: Received
    lease: Lease
    #: The kombu message, decoded.
    payload: dict[str, Any]
    #: Seconds until it may be delivered; 0 or less: now.
    due_in_seconds: float = 0.0

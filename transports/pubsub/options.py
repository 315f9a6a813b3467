"""The transport options: each is declared here once, with unit and default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from transports.errors import BadURL

if TYPE_CHECKING:
    from transports.pubsub.dead.letter import DeadLetter

_DAY = 86400.0
#: Highest priority in AMQP.
_HIGHEST_PRIORITY = 255
#: Shortest lease that Pub/Sub promises to respect with exactly-once delivery, in seconds.
EXACTLY_ONCE_FLOOR_SECONDS = 60.0


@dataclass(frozen=True)
class Options:
    """Times and limits of one connection; equal options on one address share a client and a keeper."""

    #: Seconds a message is leased at least: as long as its redelivery takes when this process is killed.
    lease_floor_seconds: float = 45.0
    #: Seconds a message is leased at most; Pub/Sub allows 600.
    lease_ceiling_seconds: float = 600.0
    #: Part of the time a message has been held by which its next lease is measured: long work survives long cuts.
    lease_fraction: float = 0.1
    #: Part of a lease after which it is renewed.
    renew_fraction: float = 1 / 3
    #: Seconds after which a message is leased for the first time by us; until then it is by the server's own lease.
    first_renewal_seconds: float = 0.5
    #: Seconds within which a publish is confirmed or fails.
    publish_timeout_seconds: float = 60.0
    #: Seconds within which a server answers a new connection; also for transient and broadcast messages.
    connect_timeout_seconds: float = 10.0
    #: Seconds a single call may take before it is tried again.
    rpc_timeout_seconds: float = 10.0
    #: Seconds that closing a connection or ending the process may take to settle messages.
    shutdown_timeout_seconds: float = 2.0
    #: Seconds `basic_get` waits for a message.
    get_timeout_seconds: float = 1.0
    #: Seconds of lease that the server itself gives to a message it sends; Pub/Sub allows 10 to 600.
    stream_ack_deadline_seconds: int = 10
    #: Seconds between two signs of life on a stream; Pub/Sub ends streams that are silent for about a minute.
    stream_heartbeat_seconds: float = 30.0
    #: Seconds a stream may take to end by itself before it is cut off.
    stream_grace_seconds: float = 0.5
    #: Longest pause between two attempts at reaching the server, in seconds.
    retry_ceiling_seconds: float = 10.0
    #: Seconds until an unacknowledged message is redelivered when nobody renews its lease; set at creation.
    ack_deadline_seconds: int = 60
    #: Seconds for which a queue keeps a message; Pub/Sub allows 31 days.
    retention_seconds: float = 31 * _DAY
    #: The same where the server does not allow that much: Google's emulator allows 7 days.
    retention_fallback_seconds: float = 7 * _DAY
    #: Seconds for which a temporary queue keeps a message; 10 minutes is Pub/Sub's least.
    temporary_retention_seconds: float = 600.0
    #: Seconds after which Pub/Sub deletes a temporary queue that nobody uses; a day is its least.
    temporary_expiration_seconds: float = _DAY
    #: Messages that a consumer without a prefetch limit holds at most.
    prefetch_ceiling: int = 1000
    #: Whether lasting queues are created with exactly-once delivery: only the last ack id of a message is valid.
    exactly_once: bool = False
    #: The priorities that lasting queues tell apart, lowest first, as in ``(0, 3, 6, 9)``; a message goes by the
    #: highest that is not above its own. Empty: only queues with an ``x-max-priority`` have any. All sides must agree.
    priority_steps: tuple[int, ...] = ()
    #: Seconds that a higher priority is given to come first whenever a consumer begins to receive: longer than a server
    #: takes for the first message of a stream (Google's emulator 60 ms). A low one waits so long when slots were full.
    priority_settle_seconds: float = 0.15
    #: How often a message is given back by whom it was delivered to before it is set aside; 0 means without limit.
    max_requeues: int = 20
    #: Seconds before its ETA at which a message is taken in and held, without a slot, to be delivered on time.
    eta_lead_seconds: float = 2.0
    #: Seconds between two looks at whether the server still answers while messages are waited for.
    watchdog_seconds: float = 30.0
    #: Seconds after which a stream is opened anew, should the server have forgotten it.
    stream_lifetime_seconds: float = 900.0
    #: Called with the message id when a lease was lost: somebody else may now work on the same message.
    on_lease_lost: Callable[[str], None] | None = None
    #: Called with a `DeadLetter` that is to be set aside; returning means that it is kept. None: a dead-letter topic.
    on_dead_letter: Callable[[DeadLetter], None] | None = None

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> Options:
        """Take what is ours from kombu's `transport_options`; names of other parts of kombu are passed over."""
        given = {field.name: options[field.name] for field in fields(cls) if field.name in options}
        return cls(**{name: _checked(name, value) for name, value in given.items()})

    def lease_seconds(self, held_seconds: float) -> float:
        """Return how long a message is to be leased that has been held for this long."""
        floor = max(self.lease_floor_seconds, EXACTLY_ONCE_FLOOR_SECONDS if self.exactly_once else 0)
        return min(self.lease_ceiling_seconds, max(floor, held_seconds * self.lease_fraction))


def _checked(name: str, value: Any) -> Any:
    if name.startswith("on_"):
        if value is not None and not callable(value):
            raise BadURL(f"transport option {name}={value!r}: give something to call, or None")
        return value
    if name == "priority_steps":
        return _checked_steps(value)
    if name == "exactly_once":
        return bool(value)
    if not isinstance(value, (int, float)) or value < 0 or (value == 0 and name != "max_requeues"):
        raise BadURL(f"transport option {name}={value!r}: give a number above 0")
    return value


def _checked_steps(value: Any) -> tuple[int, ...]:
    try:
        steps = tuple(sorted({int(step) for step in value}))
    except (TypeError, ValueError) as exc:
        raise BadURL(f"transport option priority_steps={value!r}: give a list of numbers such as [0, 3, 6, 9]") from exc
    if steps and (steps[0] < 0 or steps[-1] > _HIGHEST_PRIORITY):
        raise BadURL(f"transport option priority_steps={value!r}: priorities are 0 to {_HIGHEST_PRIORITY}")
    # What has no priority has priority 0.
    return tuple(sorted({0, *steps})) if steps else ()

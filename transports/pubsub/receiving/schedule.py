"""What a message says about when it may be delivered. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from transports.pubsub.leases.ledger import LONGEST_SECONDS

#: How finely times are told apart, in seconds, and up to which time.
_STEPS = ((1, 10), (5, 60), (30, LONGEST_SECONDS))


def eta(payload: dict[str, Any]) -> float | None:
    """Return the time before which a Celery task must not run, in seconds since 1970; None: there is none."""
    given = (payload.get("headers") or {}).get("eta")
    if not given:
        return None
    try:
        when = datetime.fromisoformat(str(given))
    except ValueError:
        return None  # not ours to judge: Celery says what is wrong with it
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def deliver_now(payload: dict[str, Any]) -> None:
    """Take the ETA of a message that is due away from Celery's worker, which would raise its prefetch limit for it.

    It stays readable as ``delivery_info["eta"]``.
    """
    info = payload["properties"].get("delivery_info") or {}
    payload["properties"]["delivery_info"] = {**info, "eta": payload["headers"]["eta"]}
    payload["headers"]["eta"] = None


def time_to_live_seconds(payload: dict[str, Any], queue_ttl_seconds: float | None) -> float | None:
    """Return for how long after its publishing a message is wanted; None: for ever.

    What else says when it expires is a Celery task: its worker drops it, and tells who waits for its result.
    """
    is_task = (payload.get("headers") or {}).get("expires")
    given = None if is_task else payload["properties"].get("expiration")
    try:
        # AMQP writes milliseconds, as text.
        own = float(given) / 1000 if given not in (None, "") else None
    except (OverflowError, TypeError, ValueError):
        own = None
    known = [ttl for ttl in (own, queue_ttl_seconds) if ttl is not None]
    return min(known, default=None)


def steps_of(seconds: float) -> int:
    """Return a time that is not longer, and the same for many messages: those are put off in one call."""
    whole = max(1, min(LONGEST_SECONDS, int(seconds)))
    step = next(step for step, below in _STEPS if whole <= below)
    return max(1, whole // step * step)

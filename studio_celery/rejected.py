"""What the transport could not deliver goes to the store, beside what named no experiment."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transports.pubsub.dead.letter import DeadLetter


def keep(letter: DeadLetter) -> None:
    """Record a message under `rejected/`; the transport acknowledges it after that."""
    from studio_celery.celery import app

    facts = {
        "reason": letter.reason,
        "published_at": datetime.fromtimestamp(letter.published_at, UTC).isoformat(),
        "message": letter.data.decode("utf-8", "backslashreplace"),
    }
    app.services.store.reject(letter.queue, letter.message_id, facts)

"""The worker's consumer: a message that is no task of this application is set aside before it leaves the queue."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from celery.worker.consumer import Consumer

from studio_celery.errors import StoreError
from studio_celery.worker.rejected import set_aside

logger = logging.getLogger(__name__)

#: Characters of a message's body that are kept with it.
BODY_MAX = 256 * 1024


class StudioConsumer(Consumer):
    """Celery's, which would reject such a message and forget it.

    What cannot be kept because the store does not answer stays in the queue, and comes again.
    """

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Not what Celery calls a task."""
        if self._keep(message, "it is no task message of Celery"):
            super().on_unknown_message(body, message)

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """A task that nobody registered with this application."""
        name = _headers(message).get("task") or exc
        if not self._keep(message, f"no task {name} is registered with this worker"):
            return
        try:
            super().on_unknown_task(body, message, exc)
        except StoreError as error:
            logger.error("That task %s is unknown cannot be told as its result: %s", name, error)

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """A known task, called in a way that cannot be."""
        if self._keep(message, f"it is not a valid task message: {exc}"):
            super().on_invalid_task(body, message, exc)

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """A body that cannot be read, or may not be."""
        if self._keep(message, f"it cannot be decoded: {exc}"):
            super().on_decode_error(message, exc)

    def _keep(self, message: Any, reason: str) -> bool:
        """Whether it was kept, so that it may go; if not it is put off."""
        headers, services = _headers(message), self.app.services
        body = message.body if isinstance(message.body, bytes) else str(message.body).encode("utf-8", "replace")
        facts = {
            "reason": reason,
            "task": headers.get("task"),
            "headers": dict(headers),
            "content_type": message.content_type,
            "message": body.decode("utf-8", "backslashreplace")[:BODY_MAX],
        }
        try:
            set_aside(services.store, (message.delivery_info or {}).get("routing_key"), headers.get("id"), facts)
        except StoreError as exc:
            logger.error("A message cannot be used (%s) nor set aside, it is tried again: %s", reason, exc)
            self._put_off(message, services.settings.defer_seconds)
            return False
        return True

    def _put_off(self, message: Any, seconds: float) -> None:
        if hasattr(message, "defer"):
            message.defer(seconds)
        else:
            self.timer.call_after(seconds, message.requeue)


def _headers(message: Any) -> Mapping[str, Any]:
    return message.headers if isinstance(message.headers, Mapping) else {}

"""The broker as somebody who publishes sees it: it answers and takes messages, or says in a sentence why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kombu.exceptions import OperationalError
from kombu.utils.url import maybe_sanitize_url

from studio_celery.errors import BrokerError, MayNotPublish
from studio_celery.submission.message import Message, Recorder
from studio_celery.submission.request import EXPERIMENT_TASK
from transports.errors import PermissionMissing, TransportError


class Broker:
    """One broker, through the application that knows it."""

    def __init__(self, app: Any, url: str, connect_seconds: float) -> None:
        self._app = app
        self._url = url
        self._connect_seconds = connect_seconds

    def check(self) -> None:
        """Raise `BrokerError` unless the broker answers."""
        with self._sentences(), self._app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=self._connect_seconds)

    def publish(self, facts: Mapping[str, str], write: Callable[[Message], None], **options: Any) -> None:
        """Put an experiment's message on its queue; returns when the broker has confirmed it.

        `facts` is what it carries; `write` keeps the message as Celery made it and is called before it is sent.
        """
        given = [options.pop(name, None) for name in ("producer", "publisher")]
        connection = options.pop("connection", None)
        with self._sentences():
            producer = self._app.amqp.Producer(connection, auto_declare=False) if connection else given[0] or given[1]
            with self._app.producer_or_acquire(producer) as acquired:
                recorder = Recorder(acquired, facts["id"], write)
                options["producer"] = recorder
                self._app.send_task(EXPERIMENT_TASK, kwargs=dict(facts), task_id=facts["id"], **options)

    def publish_again(self, message: Message, queue: str) -> None:
        """Put a message that was kept on its queue again; returns when the broker has confirmed it."""
        made = dict(message.headers), dict(message.properties), message.body, None
        with (
            self._sentences(),
            self._app.producer_or_acquire() as producer,
            producer.connection._reraise_as_library_errors(),
        ):
            self._app.amqp.send_task_message(producer, EXPERIMENT_TASK, made, queue=queue, **message.options)

    @property
    def consumed(self) -> tuple[str, ...]:
        """The queues that this process takes messages from."""
        return tuple(self._app.amqp.queues.consume_from)

    def retention_seconds(self, queue: str) -> float | None:
        """For how long a queue keeps a message; None where that cannot be asked, as of a broker that drops none."""
        with self._sentences(), self._app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=self._connect_seconds)
            ask = getattr(connection.connection, "retention_seconds", None)
            return float(ask(queue)) if ask else None

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turn what this kind of broker raises when it cannot be used into a `BrokerError`."""
        try:
            yield
        except self._errors() as exc:  # which asks the transport, and only now
            raise self._error(exc) from exc

    def _errors(self) -> tuple[type[BaseException], ...]:
        """What this kind of broker raises when it cannot be used."""
        try:
            connection = self._app.connection_for_write()
            return (OperationalError, TransportError, *connection.connection_errors, *connection.channel_errors)
        except (AttributeError, ImportError, KeyError, ValueError) as exc:
            # Without its client library kombu's redis transport stumbles over a missing attribute.
            scheme = self._url.partition(":")[0]
            raise BrokerError(
                f"The broker {maybe_sanitize_url(self._url)} cannot be used ({exc}): "
                f"install what Celery needs for {scheme}, as in pip install 'celery[{scheme}]', or check the URL."
            ) from exc

    def _error(self, exc: BaseException) -> BrokerError:
        hint = "Start it with `studio up` or `studio broker`, or set STUDIO_BROKER_URL."
        text = str(exc).strip().split("\n")[0].rstrip(".") or type(exc).__name__
        if _is_about_permission(exc):
            return MayNotPublish(f"The broker {maybe_sanitize_url(self._url)} refuses: {text}.")
        return BrokerError(f"The broker {maybe_sanitize_url(self._url)} cannot be used: {text}. {hint}")


def _is_about_permission(exc: BaseException | None) -> bool:
    """Whether that is what is behind an error, under whatever kombu made of it."""
    while exc is not None:
        if isinstance(exc, PermissionMissing):
            return True
        exc = exc.__cause__
    return False

"""An experiment's message as Celery made it, kept in the store before it is sent, so that it can be sent again.

All that a canvas put into it is in there: links, what follows in a chain, the chord and its group, root and parent,
headers, priority, the time before which it is not due. The experiment itself is not: its message carries its id only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kombu.utils.json import dumps, loads

from studio_celery.errors import MessageLost

#: Version of the JSON that `Message.to_json` writes.
SCHEMA = 1

#: Options of `Producer.publish` that are no properties of the message and belong to the moment of sending.
_OF_THE_MOMENT = ("serializer", "retry", "retry_policy", "declare", "timeout", "confirm_timeout")

#: By this exchange RabbitMQ counts a delay down; a message that is sent again has its `eta` in its headers for that.
_DELAYS = "celery_delayed"


@dataclass(frozen=True, kw_only=True)
class Message:
    """What `Producer.publish` was given for one task."""

    #: [args, kwargs, {callbacks, errbacks, chain, chord}], as the task protocol of Celery has it.
    body: Any
    headers: Mapping[str, Any]
    #: `priority`, `correlation_id`, `reply_to` and the like.
    properties: Mapping[str, Any] = field(default_factory=dict)
    #: `exchange`, `routing_key`, `delivery_mode`, `compression`, where they are not those of the queue.
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """What is kept."""
        values = {"body": self.body, "headers": self.headers, "properties": self.properties, "options": self.options}
        return dumps({"schema": SCHEMA, **values}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Message:
        """Rebuild; `MessageLost` if it cannot be read."""
        try:
            data = loads(text)
            newer = data.pop("schema") > SCHEMA
            made = cls(**data)
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise MessageLost(f"The kept message is not readable ({exc}): submit the experiment again.") from exc
        if newer:
            raise MessageLost("The kept message was written by a newer version: upgrade studio-celery.")
        return made

    @classmethod
    def of(cls, body: Any, headers: Mapping[str, Any], publish_options: Mapping[str, Any]) -> Message:
        """The message of one call of `Producer.publish`."""
        properties = {name: value for name, value in publish_options.items() if name not in _OF_THE_MOMENT}
        exchange, routing_key = properties.pop("exchange", None), properties.pop("routing_key", None)
        options = {name: properties.pop(name, None) for name in ("delivery_mode", "compression")}
        exchange = getattr(exchange, "name", exchange)
        if exchange and not exchange.startswith(_DELAYS):
            options |= {"exchange": exchange, "routing_key": routing_key}
        return cls(
            body=body,
            headers=headers,
            properties=properties,
            options={name: value for name, value in options.items() if value is not None},
        )


class Recorder:
    """A producer that has one task's message written down before it is sent."""

    def __init__(self, producer: Any, task_id: str, write: Callable[[Message], None]) -> None:
        self._producer = producer
        self._task_id = task_id
        self._write = write

    def publish(self, body: Any, headers: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """As `Producer.publish`; a Celery event about the task is sent only."""
        if headers and headers.get("id") == self._task_id:
            self._write(Message.of(body, headers, options))
        return self._producer.publish(body, headers=headers, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

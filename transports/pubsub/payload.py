"""A kombu message as the bytes of a Pub/Sub message, and back. Pure.

The bytes are the JSON object that kombu's virtual transports use. A body that is text is in it, as text; any other body
follows it as it is, after a zero byte, which JSON never contains. Pub/Sub allows 10 MB, so nothing grows by a third.
"""

from __future__ import annotations

import base64
from typing import Any

from kombu.utils.json import dumps, loads

#: Where the body is when it is text: in the JSON object.
_TEXT = "utf-8"
#: Where it is when it is not: behind it.
_RAW = "raw"
_SEPARATOR = b"\0"


class NotAMessage(ValueError):
    """The bytes are no kombu message."""


def encode(message: dict[str, Any], *, exchange: str, routing_key: str) -> bytes:
    """Return the bytes for what `Channel.prepare_message` gave."""
    text, raw = _split(message["body"])
    info = {**message["properties"].get("delivery_info", {}), "exchange": exchange, "routing_key": routing_key}
    encoding = _RAW if raw else _TEXT
    properties = {**message["properties"], "body_encoding": encoding, "delivery_info": info}
    head = str(dumps({**message, "body": text, "properties": properties})).encode("utf-8")
    return _SEPARATOR.join((head, raw)) if raw else head


def decode(data: bytes) -> dict[str, Any]:
    """Return the message with its body; raise `NotAMessage`."""
    try:
        head, _, raw = data.partition(_SEPARATOR)
        message = loads(head.decode("utf-8"))
        if not isinstance(message["headers"], dict | None) or not isinstance(message["properties"], dict):
            raise NotAMessage("headers or properties are no object")
        if not isinstance(message["properties"].get("delivery_info"), dict | None):
            raise NotAMessage("its delivery_info is no object")
        message["body"] = _body(message, raw)
    except NotAMessage:
        raise
    except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as exc:
        raise NotAMessage(f"{type(exc).__name__}: {exc}") from exc
    return dict(message)


def _split(body: str | bytes) -> tuple[str, bytes]:
    """Return what goes into the JSON object, and what follows it; one of both is empty."""
    if isinstance(body, str):
        return body, b""
    try:
        return bytes(body).decode("utf-8"), b""
    except UnicodeDecodeError:
        return "", bytes(body)


def _body(message: dict[str, Any], raw: bytes) -> str | bytes:
    body = message["body"]
    if not isinstance(body, str):
        raise NotAMessage("the body is no text")
    match message["properties"].get("body_encoding"):
        case "raw":
            return raw
        case "base64":
            # What kombu's own transports write.
            return base64.b64decode(body, validate=True)
        case "utf-8" | None:
            return body
        case other:
            raise NotAMessage(f"body_encoding {other!r} is not known")

"""A kombu message as the bytes of a Pub/Sub message, and back. Pure.

The bytes are the JSON object that kombu's virtual transports use. A body that is text stays text; anything else is
base64. Pub/Sub allows 10 MB, so text must not grow by a third.
"""

from __future__ import annotations

import base64
from typing import Any

from kombu.utils.json import dumps, loads

#: How a body that is not text is written.
_BASE64 = "base64"
#: How text is written: as it is.
_TEXT = "utf-8"


class NotAMessage(ValueError):
    """The bytes are no kombu message."""


def encode(message: dict[str, Any], *, exchange: str, routing_key: str) -> bytes:
    """Return the bytes for what `Channel.prepare_message` gave."""
    body, encoding = _encode_body(message["body"])
    info = {**message["properties"].get("delivery_info", {}), "exchange": exchange, "routing_key": routing_key}
    properties = {**message["properties"], "body_encoding": encoding, "delivery_info": info}
    return str(dumps({**message, "body": body, "properties": properties})).encode("utf-8")


def decode(data: bytes) -> dict[str, Any]:
    """Return the message with its body decoded; raise `NotAMessage`."""
    try:
        message = loads(data.decode("utf-8"))
        if not isinstance(message["headers"], dict | None) or not isinstance(message["properties"], dict):
            raise NotAMessage("headers or properties are no object")
        if not isinstance(message["properties"].get("delivery_info"), dict | None):
            raise NotAMessage("its delivery_info is no object")
        message["body"] = _decode_body(message["body"], message["properties"].get("body_encoding"))
    except NotAMessage:
        raise
    except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as exc:
        raise NotAMessage(f"{type(exc).__name__}: {exc}") from exc
    return dict(message)


def _encode_body(body: str | bytes) -> tuple[str, str]:
    if isinstance(body, str):
        return body, _TEXT
    try:
        return bytes(body).decode("utf-8"), _TEXT
    except UnicodeDecodeError:
        return base64.b64encode(body).decode("ascii"), _BASE64


def _decode_body(body: Any, encoding: str | None) -> str | bytes:
    if not isinstance(body, str):
        raise NotAMessage("the body is no text")
    return base64.b64decode(body, validate=True) if encoding == _BASE64 else body

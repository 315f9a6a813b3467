"""The one door to Google's message types, and messages: what travels, to and from what we keep."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from google.iam.v1 import iam_policy_pb2
from google.protobuf import empty_pb2
from google.pubsub_v1 import types

from transports.local import rules
from transports.local.errors import InvalidArgumentError
from transports.local.model import Delivery, Draft

#: A generated protobuf message; Google's library has no types for them.
Message = Any

#: Names of attributes that need not be checked again; most messages of a queue have the same.
_KNOWN_NAMES = 1000


def request_type(name: str) -> Any:
    """Return the protobuf class of a Pub/Sub request or response."""
    return _class_of(name)


@cache
def _class_of(name: str) -> Any:
    return getattr(types, name).pb()


#: Classes that are not Pub/Sub's own.
EMPTY = empty_pb2.Empty
TEST_PERMISSIONS_REQUEST = iam_policy_pb2.TestIamPermissionsRequest
TEST_PERMISSIONS_RESPONSE = iam_policy_pb2.TestIamPermissionsResponse


def serialize(message: Message) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def read_drafts(request: Message, size_bytes: int) -> list[Draft]:
    """Check the messages of a publish request of so many bytes, and return what is published of each."""
    request.DiscardUnknownFields()
    messages = request.messages
    if not 1 <= len(messages) <= rules.MAX_MESSAGES:
        raise InvalidArgumentError(f"A publish request has 1 to {rules.MAX_MESSAGES} messages, not {len(messages)}.")
    drafts = [_read_draft(each) for each in messages]
    limit = rules.MAX_MESSAGE_BYTES
    if size_bytes > limit and sum(len(each.data) for each in messages) > limit:  # of which only the data counts
        raise InvalidArgumentError(f"A publish request has at most {limit} bytes of data.")
    return drafts


def write_delivery(delivery: Delivery) -> Message:
    received = request_type("ReceivedMessage")(ack_id=delivery.ack_id, delivery_attempt=delivery.attempt)
    received.message.ParseFromString(delivery.message.payload)
    received.message.message_id = str(delivery.message.id)
    received.message.publish_time.FromMicroseconds(delivery.message.published_us)
    return received


def read_attributes(payload: bytes) -> Mapping[str, str]:
    """Return the attributes of a stored message."""
    attributes: Mapping[str, str] = request_type("PubsubMessage").FromString(payload).attributes
    return attributes


def add_attributes(payload: bytes, attributes: Mapping[str, str]) -> Draft:
    """Return a stored message as a new one with more attributes."""
    message = request_type("PubsubMessage").FromString(payload)
    message.attributes.update(attributes)
    return Draft(message.SerializeToString(), message.attributes, message.ordering_key)


def _read_draft(message: Message) -> Draft:
    payload, attributes = message.SerializeToString(), message.attributes
    if attributes:
        _check_attributes(attributes)
    else:
        size = len(message.data)
        if not size:
            raise InvalidArgumentError("A message must have data or at least one attribute.")
        if len(payload) == 1 + (size.bit_length() + 6) // 7 + size:
            return Draft(payload)  # it has data and nothing else
    key = message.ordering_key
    if key:
        rules.check_ordering_key(key)
    if message.message_id or message.HasField("publish_time"):  # which are the broker's to say
        message.ClearField("message_id")
        message.ClearField("publish_time")
        payload = message.SerializeToString()
    return Draft(payload, attributes, key)


def _check_attributes(attributes: Mapping[str, str]) -> None:
    if len(attributes) > rules.MAX_ATTRIBUTES:
        raise InvalidArgumentError(f"A message can have {rules.MAX_ATTRIBUTES} attributes, not {len(attributes)}.")
    for name, value in attributes.items():
        _check_attribute_name(name)
        # No character has more than four bytes.
        if len(value) * 4 > rules.MAX_ATTRIBUTE_VALUE_BYTES and len(value.encode()) > rules.MAX_ATTRIBUTE_VALUE_BYTES:
            raise InvalidArgumentError(f"The attribute {name!r} has more than {rules.MAX_ATTRIBUTE_VALUE_BYTES} bytes.")


@lru_cache(maxsize=_KNOWN_NAMES)
def _check_attribute_name(name: str) -> None:
    if not 1 <= len(name.encode()) <= rules.MAX_ATTRIBUTE_NAME_BYTES or name.lower().startswith("goog"):
        raise InvalidArgumentError(
            f"The attribute name {name[:50]!r} must have 1 to {rules.MAX_ATTRIBUTE_NAME_BYTES} bytes"
            " and not begin with 'goog'."
        )

"""The service's rules for names, ranges and sizes; each function returns nothing or raises ``InvalidArgumentError``."""

from __future__ import annotations

import re

from transports.local.errors import InvalidArgumentError

#: Seconds of a subscription's ack deadline when it asks for none.
DEFAULT_ACK_DEADLINE_SECONDS = 10
#: Least seconds of an ack deadline of a subscription or a stream.
MIN_ACK_DEADLINE_SECONDS = 10
#: Most seconds of any ack deadline.
MAX_ACK_DEADLINE_SECONDS = 600
#: Seconds an unacknowledged message is kept when the subscription does not say: 7 days.
DEFAULT_RETENTION_SECONDS = 7 * 86400
#: Least seconds of retention: 10 minutes.
MIN_RETENTION_SECONDS = 600
#: Most seconds of retention: 31 days.
MAX_RETENTION_SECONDS = 31 * 86400
#: Seconds without use after which a subscription expires when it does not say: 31 days.
DEFAULT_EXPIRATION_SECONDS = 31 * 86400
#: Least seconds of an expiration policy: 1 day.
MIN_EXPIRATION_SECONDS = 86400
#: Most bytes of one message, and of one publish request.
MAX_MESSAGE_BYTES = 10_000_000
#: Most messages of one publish request, and of one response.
MAX_MESSAGES = 1000
#: Most attributes of one message.
MAX_ATTRIBUTES = 100
#: Most bytes of an attribute's name.
MAX_ATTRIBUTE_NAME_BYTES = 256
#: Most bytes of an attribute's value.
MAX_ATTRIBUTE_VALUE_BYTES = 1024
#: Most bytes of one request to acknowledge or to modify deadlines.
MAX_ACK_REQUEST_BYTES = 524_288

_ID = re.compile(r"[A-Za-z][A-Za-z0-9\-_.~+%]{2,254}")
_PROJECT = re.compile(r"projects/[^/]+")


def check_project(name: str) -> None:
    if not _PROJECT.fullmatch(name):
        raise InvalidArgumentError(f"{name!r} does not name a project: it must be projects/PROJECT.")


def check_topic_name(name: str) -> None:
    _check_name(name, "topics")


def check_subscription_name(name: str) -> None:
    _check_name(name, "subscriptions")


def check_ack_deadline(seconds: int) -> None:
    """Check the deadline of a subscription or a stream."""
    if not MIN_ACK_DEADLINE_SECONDS <= seconds <= MAX_ACK_DEADLINE_SECONDS:
        raise InvalidArgumentError(f"The ack deadline must be 10 to 600 seconds, not {seconds}.")


def check_extension(seconds: int) -> None:
    """Check the deadline that a single delivery asks for; 0 gives the message back."""
    if not 0 <= seconds <= MAX_ACK_DEADLINE_SECONDS:
        raise InvalidArgumentError(f"The ack deadline of a message must be 0 to 600 seconds, not {seconds}.")


def check_retention(seconds: int) -> None:
    if not MIN_RETENTION_SECONDS <= seconds <= MAX_RETENTION_SECONDS:
        raise InvalidArgumentError(f"Messages can be retained 10 minutes to 31 days, not {seconds} seconds.")


def check_expiration(seconds: int | None) -> None:
    if seconds is not None and seconds < MIN_EXPIRATION_SECONDS:
        raise InvalidArgumentError(f"A subscription expires after 1 day at the earliest, not after {seconds} seconds.")


def check_ack_request(ack_ids: int, size: int) -> None:
    """Check how many ids and how many bytes a request has that acknowledges or modifies deadlines."""
    if ack_ids == 0:
        raise InvalidArgumentError("The request names no ack ids.")
    if size > MAX_ACK_REQUEST_BYTES:
        raise InvalidArgumentError(f"The request has {size} bytes; the limit is {MAX_ACK_REQUEST_BYTES}.")


def _check_name(name: str, kind: str) -> None:
    project, _, identifier = name.partition(f"/{kind}/")
    if not _PROJECT.fullmatch(project) or not _ID.fullmatch(identifier) or identifier.startswith("goog"):
        raise InvalidArgumentError(
            f"{name!r} is not a valid name: it must be projects/PROJECT/{kind}/ID with an ID of 3 to 255 characters "
            "out of [A-Za-z0-9-_.~+%], beginning with a letter and not with 'goog'."
        )

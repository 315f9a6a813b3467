"""The service's rules for names, ranges and sizes; each function returns nothing or raises a ``RequestError``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from transports.local.errors import InvalidArgumentError, OutOfRangeError

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

#: Most bytes of an ordering key.
MAX_ORDERING_KEY_BYTES = 1024
#: Fewest and most deliveries after which a message can be a dead letter.
MIN_ATTEMPTS, MAX_ATTEMPTS = 5, 100
#: Seconds of the first and the longest delay of a retry policy that does not say.
DEFAULT_MIN_BACKOFF_SECONDS, DEFAULT_MAX_BACKOFF_SECONDS = 10.0, 600.0
#: Most seconds of any delay of a retry policy.
MAX_BACKOFF_SECONDS = 600.0
#: Most labels of a topic, subscription or snapshot.
MAX_LABELS = 64
#: Most characters of a label's key and of its value.
MAX_LABEL_CHARACTERS = 63

_ID = re.compile(r"[A-Za-z][A-Za-z0-9\-_.~+%]{2,254}")
_LABEL_RULE = f"up to {MAX_LABEL_CHARACTERS} lowercase letters, digits, '-' and '_'"
#: No id has blanks or control characters, which could forge lines of the log.
_PROJECT = re.compile(r"projects/[!-.0-~]{1,255}")


def check_project(name: str) -> None:
    if not _PROJECT.fullmatch(name):
        raise InvalidArgumentError(f"{name!r} does not name a project: it must be projects/PROJECT.")


def check_topic_name(name: str) -> None:
    _check_name(name, "topics")


def check_subscription_name(name: str) -> None:
    _check_name(name, "subscriptions")


def check_snapshot_name(name: str) -> None:
    _check_name(name, "snapshots")


def check_ordering_key(key: str) -> None:
    if len(key.encode()) > MAX_ORDERING_KEY_BYTES:
        raise InvalidArgumentError(f"An ordering key has at most {MAX_ORDERING_KEY_BYTES} bytes.")


def check_attempts(attempts: int) -> None:
    if not MIN_ATTEMPTS <= attempts <= MAX_ATTEMPTS:
        raise OutOfRangeError(f"The most delivery attempts must be {MIN_ATTEMPTS} to {MAX_ATTEMPTS}, not {attempts}.")


def check_backoff(min_seconds: float, max_seconds: float) -> None:
    for seconds in (min_seconds, max_seconds):
        if not 0 <= seconds <= MAX_BACKOFF_SECONDS:
            raise InvalidArgumentError(f"A backoff must be 0 to 600 seconds, not {seconds:g}.")
    if min_seconds > max_seconds:
        raise InvalidArgumentError(f"The minimum backoff {min_seconds:g} s exceeds the maximum, {max_seconds:g} s.")


def check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise InvalidArgumentError(f"There can be {MAX_LABELS} labels, not {len(labels)}.")
    for key, value in labels.items():
        if not key or not key[0].isalpha() or not _is_label(key):
            raise InvalidArgumentError(f"The label {key[:70]!r} is not valid: {_LABEL_RULE}, beginning with a letter.")
        if not _is_label(value):
            raise InvalidArgumentError(f"The label {key!r} has the value {value[:70]!r}, which is not: {_LABEL_RULE}.")


def _is_label(text: str) -> bool:
    return len(text) <= MAX_LABEL_CHARACTERS and text == text.lower() and all(_is_label_character(c) for c in text)


def _is_label_character(character: str) -> bool:
    return character.isalpha() or character.isdigit() or character in "-_"


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

"""What can go wrong between an application and its broker. A text names the cause, then the next step.

Every class also belongs to one of kombu's families, so that kombu and Celery retry what can be retried.
"""

from __future__ import annotations

from typing import Any

from kombu.exceptions import ChannelError, ConnectionError, InconsistencyError


class TransportError(Exception):
    """Root of the errors of this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self),)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class BadURL(TransportError, ValueError):
    """The broker URL or a transport option cannot be understood."""


class ConnectionFailed(TransportError, ConnectionError):
    """The server cannot be used at the moment; connecting again may help."""


class ServerUnavailable(ConnectionFailed):
    """No server answered in time."""


class TimedOut(ServerUnavailable):
    """The server took longer than this call was given; it may have carried it out."""


class NotAuthenticated(ConnectionFailed):
    """The server does not accept the credentials, or there are none."""


class ChannelFailed(TransportError, ChannelError):
    """The server answered, and refused this operation."""


class PermissionMissing(ChannelFailed):
    """The credentials are valid but lack a permission."""

    def __init__(self, text: str, permission: str = "") -> None:
        super().__init__(text)
        #: What is missing and on what, as Google calls it.
        self.permission = permission

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.permission)


class RequestRefused(ChannelFailed):
    """The server does not accept such a request."""


class LeasesRefused(RequestRefused):
    """The server carried a call out for some ack ids only (exactly-once delivery)."""

    def __init__(self, text: str, lost: frozenset[str] = frozenset(), again: frozenset[str] = frozenset()) -> None:
        super().__init__(text)
        #: Ack ids that are not valid any more: their messages are delivered again, or were.
        self.lost = lost
        #: Ack ids for which the same call may succeed.
        self.again = again


class NotConfirmed(ConnectionFailed):
    """Some messages of a bulk were not confirmed; they may have arrived or not."""

    def __init__(self, text: str, count: int = 0) -> None:
        super().__init__(text)
        self.count = count


class AlreadyExists(RequestRefused):
    """What was to be created is there already."""


class BadName(ChannelFailed, ValueError):
    """A queue, exchange or routing key cannot be named in Pub/Sub."""


class QueueNotFound(ChannelFailed, InconsistencyError):
    """The topic or subscription does not exist; kombu's remote control drops replies on this error."""

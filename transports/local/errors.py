"""What can go wrong in the local broker; the text of each is the sentence that a person or a client reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class BrokerError(Exception):
    """The root of this package's errors."""


class StartError(BrokerError):
    """The broker does not start; nothing was changed."""


class HostError(StartError):
    """Others could reach the host, and something that keeps them out is missing."""

    def __init__(self, host: str, missing: str, remedy: str) -> None:
        super().__init__(
            f"{host!r} is not a loopback address, and without {missing} the broker listens on loopback only: "
            f"{remedy}, or use 127.0.0.1."
        )


class CertificateError(StartError):
    """The certificate or its key cannot be used."""


class ListenError(StartError):
    """Host and port cannot be listened on."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"Cannot listen on {address} ({reason}): choose another port, or stop what uses this one.")


class DataInUseError(StartError):
    """Another broker has the data directory."""

    def __init__(self, data: Path) -> None:
        super().__init__(f"Another broker already uses the data directory {data}: stop it or choose another directory.")


class DataUnusableError(StartError):
    """The data directory cannot be written, or was written by a newer version."""


class RequestError(BrokerError):
    """A request is answered with an error; the subclass decides the status code."""


class NotFoundError(RequestError):
    """The topic or subscription does not exist."""


class AlreadyExistsError(RequestError):
    """The topic or subscription exists already."""


class InvalidArgumentError(RequestError):
    """The request breaks a rule of Pub/Sub, here or at Google."""


class StaleAckIdsError(InvalidArgumentError):
    """With exactly-once delivery, some ack ids are good no longer; what the others asked for was done."""

    def __init__(self, ack_ids: Sequence[str]) -> None:
        # Google's words, then what it says in the error's details.
        super().__init__(
            "Some acknowledgement ids in the request were invalid. This could be because the acknowledgement ids have"
            " expired or the acknowledgement ids were malformed."
        )
        self.ack_ids = ack_ids


class OutOfRangeError(RequestError):
    """A number is too small or too large."""


class FailedPreconditionError(RequestError):
    """Not in this state of what the request is about."""


class NotSupportedError(RequestError):
    """Google's service does this, the local broker does not."""


class UnauthenticatedError(RequestError):
    """The request has no token, or one that the broker does not know."""


class PermissionDeniedError(RequestError):
    """The token does not permit this."""

    def __init__(self, permission: str, resource: str) -> None:
        # Google's words, then what it says in the error's details.
        super().__init__(f"User not authorized to perform this action. Permission {permission!r} denied.")
        self.permission = permission
        self.resource = resource


class UnavailableError(RequestError):
    """Not now: the broker is stopping, or its disk refused to store; a client may try again."""

"""What can go wrong in the local broker; the text of each is the sentence that a person or a client reads."""

from __future__ import annotations

from pathlib import Path


class BrokerError(Exception):
    """The root of this package's errors."""


class StartError(BrokerError):
    """The broker does not start; nothing was changed."""


class HostError(StartError):
    """The host is not this machine's own."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"The local broker listens on this machine only, and {host!r} is not a loopback address: use 127.0.0.1."
        )


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


class NotSupportedError(RequestError):
    """Google's service does this, the local broker does not."""


class UnavailableError(RequestError):
    """Not now: the broker is stopping, or its disk refused to store; a client may try again."""

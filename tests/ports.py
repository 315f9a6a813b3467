"""Ports of servers that a test ends and starts anew: nobody else gets one meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


def place() -> socket.socket:
    """A socket that is bound to a free port of 127.0.0.1 and never listens: keeps the port until it is closed.

    A server that sets SO_REUSEADDR, as all of ours do, may bind and listen there; who asks for any port gets another,
    and who connects while there is no server is refused.
    """
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", 0))
    return made


def port_of(place: socket.socket) -> int:
    """The port that it keeps."""
    return int(place.getsockname()[1])


@contextmanager
def kept_port() -> Iterator[int]:
    """A port that stays ours, whether a server listens there or not."""
    with place() as held:
        yield port_of(held)

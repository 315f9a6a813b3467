"""One stream through a `FaultProxy`, and what calls of all kinds are passed on with."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import grpc
from fault_rules import Call
from grpc import StatusCode

#: Metadata that belongs to a connection and not to a call.
_OWN_METADATA = ("user-agent", "grpc-accept-encoding", "accept-encoding", "grpc-encoding", "content-type", "te")
#: Seconds that a server may take to end its side of a stream.
_LIMIT_SECONDS = 60.0


@dataclass(frozen=True)
class End:
    """How a call ends for the client."""

    code: StatusCode
    details: str = ""
    trailing: tuple[tuple[str, str | bytes], ...] = ()


class OpenStream:
    """One stream of a client, and the server's behind it, if there is one."""

    def __init__(self, call: Call, context: grpc.ServicerContext) -> None:
        self.call = call
        #: None: the client ended it.
        self.ended_with: End | None = None
        self._metadata = passable(context.invocation_metadata())
        self._events: SimpleQueue[bytes | End | None] = SimpleQueue()
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        self._silent = False
        self._server: Any = None
        self._receiver: threading.Thread | None = None
        if not context.add_callback(lambda: self._events.put(None)):
            self._events.put(None)

    def connect(self, start: Any, first: bytes, requests: Iterable[bytes]) -> None:
        """Open the server's stream."""
        self._requests.put(first)
        self._server = start(iter(self._requests.get, None), metadata=self._metadata)
        self._receiver = threading.Thread(target=self._receive, name="fault-proxy-down")
        self._receiver.start()
        # It ends with the client's side of the stream.
        threading.Thread(target=self._send, args=(requests,), name="fault-proxy-up").start()

    def end(self, end: End) -> None:
        self._events.put(end)

    def silence(self) -> None:
        """Bring nothing any more; on return the server has ended its side, and keeps no message for this one."""
        self._silent = True
        self._requests.put(None)
        if self._receiver is not None:
            self._receiver.join(_LIMIT_SECONDS)
            self._server.cancel()

    def messages(self) -> Iterator[bytes]:
        """Yield what goes to the client until the stream ends."""
        while isinstance(event := self._events.get(), bytes):
            if not self._silent:
                yield event
        self.ended_with = event

    def disconnect(self) -> None:
        """Let go of the server's stream; the client's has ended."""
        if self._receiver is not None:
            self._server.cancel()
            self._receiver.join(_LIMIT_SECONDS)

    def _send(self, requests: Iterable[bytes]) -> None:
        try:
            for data in requests:
                self._requests.put(data)
        except grpc.RpcError:
            self._server.cancel()
        self._requests.put(None)

    def _receive(self) -> None:
        with suppress(grpc.RpcError):
            for data in self._server:
                self._events.put(data)
        end = End(self._server.code(), self._server.details() or "", passable(self._server.trailing_metadata()))
        if not self._silent:
            self._events.put(end)


def passable(metadata: Iterable[tuple[str, str | bytes]] | None) -> tuple[tuple[str, str | bytes], ...]:
    """Return the metadata of one side that the other side is to see."""
    return tuple((key, value) for key, value in metadata or () if key not in _OWN_METADATA)

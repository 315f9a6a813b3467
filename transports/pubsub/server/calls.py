"""How a call is made: through the gate, with a time limit, once or until it succeeds; errors come out as ours.

Nothing of gRPC exists before the first call, and calls are made only in the process that made this object.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from transports.errors import ServerUnavailable, TimedOut, TransportError
from transports.pubsub.options import Options
from transports.pubsub.server import failures
from transports.pubsub.server.gate import Gate
from transports.pubsub.server.messages import Received
from transports.pubsub.server.stream import Stream
from transports.pubsub.server.url import Address
from transports.pubsub.server.wire import Wire

#: Seconds before a call is tried again; doubled each time.
_FIRST_PAUSE_SECONDS = 0.1
#: Seconds that a fork may be held up by calls that are under way.
_PARK_SECONDS = 5.0
#: Where a server says more about an error than its code: a `google.rpc.Status`.
_DETAILS = "grpc-status-details-bin"


class Calls:
    """Calls to one server, from any thread."""

    def __init__(self, address: Address, options: Options) -> None:
        self.address = address
        self.options = options
        self._gate = Gate()
        self._lock = threading.Lock()
        self._open_wire: Wire | None = None
        self._streams: set[Stream] = set()
        #: Called when a call got no answer in time: the connection may be dead.
        self.on_silence: Callable[[], object] = lambda: None

    @property
    def project(self) -> str:
        return self.address.project or self.wire().project

    def wire(self) -> Wire:
        """Return the open wire, opened now if there is none."""
        with self._gate:
            return self._wire()

    def once(self, method: str, request: Mapping[str, Any], *, timeout_seconds: float | None = None) -> Any:
        """Make a call, once."""
        import grpc

        name = _resource(request)
        timeout_seconds = timeout_seconds or self.options.rpc_timeout_seconds
        # Written out, not `with self.guarded`: this is the way of every message.
        with self._gate:
            try:
                return self._wire().stub(method)(request, timeout=timeout_seconds, metadata=_routing(name))
            except (grpc.RpcError, ValueError) as exc:
                failure = self._failure(exc, method, name)
                # A pull ends like this when there is nothing.
                if isinstance(failure, TimedOut) and method != "Pull":
                    self.on_silence()
                raise failure from exc

    def retried(self, method: str, request: Mapping[str, Any], *, timeout_seconds: float | None = None) -> Any:
        """Call until it succeeds, is refused, or the time is up."""
        timeout_seconds = timeout_seconds or self.options.connect_timeout_seconds
        ends_at = time.monotonic() + timeout_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            left = max(0.05, ends_at - time.monotonic())
            try:
                return self.once(method, request, timeout_seconds=min(left, self.options.rpc_timeout_seconds))
            except ServerUnavailable:
                if time.monotonic() + pause > ends_at:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, self.options.retry_ceiling_seconds)

    def soon(self, method: str, request: Mapping[str, Any]) -> Any:
        """Call once, in as little time as a process has that is about to end."""
        return self.once(method, request, timeout_seconds=self.options.shutdown_timeout_seconds)

    def probe(self, resource: str) -> None:
        """Ask what needs no permission; an answer of any kind but unavailable or unauthenticated will do."""
        call = self.wire().probe(resource)
        with self.guarded("TestIamPermissions", resource):
            call(timeout=self.options.connect_timeout_seconds, metadata=_routing(resource))

    def read(self, stream: Stream, name: str) -> Iterator[list[Received]]:
        """Yield what a stream brings until it ends, which is regular: servers end streams now and then."""
        self._streams.add(stream)
        try:
            yield from stream.batches(self.guarded("StreamingPull", name))
        except ServerUnavailable:
            if not stream.finishing:
                raise
        finally:
            self._streams.discard(stream)

    @property
    def streams(self) -> list[Stream]:
        """The streams that are open, or opening."""
        return list(self._streams)

    @contextmanager
    def guarded(self, method: str, name: str) -> Iterator[None]:
        """Stay in the gate, and turn errors of gRPC into ours."""
        import grpc

        with self._gate:
            try:
                yield
            except (grpc.RpcError, ValueError) as exc:
                raise self._failure(exc, method, name) from exc

    def park(self) -> None:
        """Leave gRPC with all threads, and keep out until `unpark`: the process is about to fork."""
        self._gate.shut()
        for stream in self.streams:
            stream.finish()
        if not self._gate.wait_until_empty(_PARK_SECONDS):
            for stream in self.streams:
                stream.cancel()

    def unpark(self) -> None:
        self._gate.open()

    def close(self) -> None:
        """Cut off what is under way; a later call opens a new wire."""
        with self._lock:
            wire, self._open_wire = self._open_wire, None
        for stream in self.streams:
            stream.cancel()
        if wire is not None:
            wire.close()

    def _wire(self) -> Wire:
        wire = self._open_wire
        if wire is None:
            # Two threads that make clients at once can hang: https://github.com/googleapis/python-pubsub/issues/1101
            with self._lock:
                wire = self._open_wire = self._open_wire or Wire(self.address)
        return wire

    def _failure(self, exc: Any, method: str, name: str) -> TransportError:
        if isinstance(exc, ValueError):
            # gRPC's way to say that the channel was closed by another thread.
            return ServerUnavailable(f"the connection to {self.address} was closed: connect again")
        code, details, acks = exc.code().name, exc.details() or "", _ack_errors(exc)
        return failures.failure(code, details, method=method, name=name, address=self.address, acks=acks)


def _ack_errors(exc: Any) -> dict[str, str]:
    """Return what a server says about single ack ids, by ack id."""
    from google.rpc.error_details_pb2 import ErrorInfo
    from google.rpc.status_pb2 import Status

    found = next((value for key, value in exc.trailing_metadata() or () if key == _DETAILS), None)
    for detail in Status.FromString(found).details if found else ():
        info = ErrorInfo()
        if detail.Unpack(info) and info.metadata:
            return {key: why for key, why in info.metadata.items() if "_FAILURE_" in why}
    return {}


def _resource(request: Mapping[str, Any]) -> str:
    """Return the full name of the topic, subscription or project that a request is about."""
    return next(str(request[field]) for field in ("name", "subscription", "topic", "project") if field in request)


@lru_cache(maxsize=1024)
def _routing(name: str) -> tuple[tuple[str, str], ...]:
    """Return the header by which Google routes a call."""
    field = "topic" if "/topics/" in name else "subscription" if "/subscriptions/" in name else "project"
    return (("x-goog-request-params", f"{field}={quote(name)}"),)

"""A proxy between a gRPC client and a Pub/Sub server that answers, delays, loses and swallows calls as tests ask it to.

    with FaultProxy(server_address) as proxy:
        rule = proxy.rule("Acknowledge", Answer(StatusCode.UNAVAILABLE), resource="*/celery-gpu", times=3)
        ...
        rule.end()

Everything else passes through as bytes, with the metadata of both directions. `cut_proxy` is the same for the network
below. The proxy is threads of this process: a test that forks does so in a process of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from typing import Self

import grpc
from fault_rules import ROLES, Action, Answer, Call, Delay, LoseAnswer, Rule, Rules, Swallow, permitted, read_call
from fault_stream import End, OpenStream, passable
from grpc import StatusCode

#: Calls that can be under way at the same time; an open stream is one.
_CALLS = 200
_SERVER_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Clients may ping as often as a test with short times makes them.
    ("grpc.http2.min_ping_interval_without_data_ms", 100),
    ("grpc.keepalive_permit_without_calls", 1),
)
_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class FaultProxy:
    """Listens from `__enter__` to `__exit__` at `address`; rules can be set at any time, from any thread."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._rules = Rules()
        self._lock = threading.Lock()
        self._calls: list[Call] = []
        self._streams: list[OpenStream] = []

    def __enter__(self) -> Self:
        self._channel = grpc.insecure_channel(self._target, options=_CHANNEL_OPTIONS)
        self._pool = ThreadPoolExecutor(_CALLS, thread_name_prefix="fault-proxy")
        self._server = grpc.server(self._pool, handlers=[_Passage(self)], options=_SERVER_OPTIONS)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.stop(None).wait()
        self._channel.close()
        self._pool.shutdown()

    def rule(self, method: str, action: Action, *, resource: str = "*", times: int | None = None) -> Rule:
        """Do something with all calls that match from now on, or with the next few of them."""
        return self._rules.add(Rule(method, action, resource, times))

    def only(self, role: str) -> None:
        """Refuse whatever this role of Google's does not allow: "publisher", "subscriber"."""
        self._rules.role = ROLES[role]

    def clear(self) -> None:
        """Take all rules and the role back; what they did stays done."""
        self._rules.clear()

    def calls(self, method: str = "*", *, resource: str = "*", code: StatusCode | None = None) -> list[Call]:
        """Return the calls so far, oldest first; with `code` those that were answered with it."""
        with self._lock:
            found = list(self._calls)
        return [
            call
            for call in found
            if fnmatchcase(call.method, method)
            and fnmatchcase(call.resource, resource)
            and (code is None or call.code is code)
        ]

    def streams(self, resource: str = "*") -> list[OpenStream]:
        """Return the streams that are open."""
        with self._lock:
            return [stream for stream in self._streams if fnmatchcase(stream.call.resource, resource)]

    def end_streams(self, code: StatusCode = StatusCode.OK, *, resource: str = "*") -> int:
        """End the open streams with a status; return how many there were."""
        ended = self.streams(resource)
        for stream in ended:
            stream.end(End(code, "the fault proxy ended the stream"))
        return len(ended)

    def silence_streams(self, *, resource: str = "*") -> int:
        """Make the open streams deaf: they stay up and bring nothing, and the server takes them for closed."""
        silenced = self.streams(resource)
        for stream in silenced:
            stream.silence()
        return len(silenced)

    def pass_unary(self, path: str, data: bytes, context: grpc.ServicerContext) -> bytes:
        """Serve one call."""
        call = self._note(path, data, context)
        gone = _gone(context)
        action, role = self._decide(call, gone), self._rules.role
        if action is None and role is not None and call.method == "TestIamPermissions":
            call.code = StatusCode.OK
            return permitted(role, data)
        if isinstance(action, Swallow):
            gone.wait()
        if gone.is_set():
            call.code = StatusCode.CANCELLED
            return b""
        if isinstance(action, Answer):
            return _finish(call, context, End(action.code, action.details, action.trailing))
        return self._forward(call, data, context, path=path, lost=isinstance(action, LoseAnswer))

    def pass_stream(self, path: str, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Serve one stream; it is known by what its first request says."""
        with suppress(grpc.RpcError, StopIteration):
            first = next(requests)
            call = self._note(path, first, context)
            action = self._decide(call, _gone(context))
            if isinstance(action, Answer):
                _finish(call, context, End(action.code, action.details, action.trailing))
                return
            stream = OpenStream(call, context)
            if not isinstance(action, Swallow):
                stream.connect(self._channel.stream_stream(path), first, requests)
            yield from self._listed(stream)
            if stream.ended_with is not None:
                _finish(call, context, stream.ended_with)

    def _listed(self, stream: OpenStream) -> Iterator[bytes]:
        with self._lock:
            self._streams.append(stream)
        try:
            yield from stream.messages()
        finally:
            with self._lock:
                self._streams.remove(stream)
            stream.disconnect()

    def _forward(self, call: Call, data: bytes, context: grpc.ServicerContext, *, path: str, lost: bool) -> bytes:
        answer = self._channel.unary_unary(path).future(
            data, timeout=context.time_remaining(), metadata=passable(context.invocation_metadata())
        )
        if not context.add_callback(answer.cancel):
            answer.cancel()
        end = End(answer.code(), answer.details() or "", passable(answer.trailing_metadata()))
        if lost:
            return _finish(call, context, End(StatusCode.UNAVAILABLE, "the fault proxy lost the answer"))
        call.code = end.code  # now: if the client has cancelled its call, gRPC ends this handler with the next line
        with suppress(ValueError):  # the client has gone
            context.send_initial_metadata(passable(answer.initial_metadata()))
        _finish(call, context, end)
        passed: bytes = answer.result()
        return passed

    def _note(self, path: str, data: bytes, context: grpc.ServicerContext) -> Call:
        call = read_call(path.rpartition("/")[2], data, passable(context.invocation_metadata()))
        with self._lock:
            self._calls.append(call)
        return call

    def _decide(self, call: Call, gone: threading.Event) -> Action | None:
        """Return what becomes of a call, once its delays are over."""
        for action in self._rules.actions(call):
            if not isinstance(action, Delay):
                return action
            gone.wait(action.seconds)
        return None


class _Passage(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Takes every method there is; messages stay bytes."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        if details.method.endswith("/StreamingPull"):
            return grpc.stream_stream_rpc_method_handler(partial(self._proxy.pass_stream, details.method))
        return grpc.unary_unary_rpc_method_handler(partial(self._proxy.pass_unary, details.method))


def _gone(context: grpc.ServicerContext) -> threading.Event:
    """Return an event that is set once the client does not wait for the call any more."""
    gone = threading.Event()
    if not context.add_callback(gone.set):
        gone.set()
    return gone


def _finish(call: Call, context: grpc.ServicerContext, end: End) -> bytes:
    """Give a call its end; raises gRPC's way out of a handler unless the end is OK."""
    call.code = end.code
    context.set_trailing_metadata(end.trailing)
    if end.code is not StatusCode.OK:
        context.abort(end.code, end.details)
    return b""

"""A client's connection: from the transport's bytes to frames, what concerns all streams, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import quote

from transports.local.http2 import frames, settings
from transports.local.http2.errors import ConnectionFault, ErrorCode, StreamFault
from transports.local.http2.frames import Chunk, FrameCutter
from transports.local.http2.outbound import Outbound
from transports.local.http2.streams import Find, Streams
from transports.local.listeners import HANDSHAKE_SECONDS

logger = logging.getLogger(__name__)

#: Seconds that a client gets to read why we leave.
_LINGER_SECONDS = 1.0
#: Bytes that may wait in a transport before streams have to.
_MAX_UNSENT_BYTES = 256 * 1024
#: What our pings carry.
_PING = frames.frame(frames.PING, 0, 0, b"are you?")


class House(Protocol):
    """What a connection needs of its server."""

    find: Find
    #: Seconds after which a client that does not answer has gone.
    silence_seconds: float
    tasks: set[asyncio.Task[None]]

    def connected(self, connection: Connection) -> None: ...

    def disconnected(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """Serves one client; whatever that sends, nothing is raised, and the others notice nothing."""

    _transport: asyncio.Transport
    _streams: Streams
    _outbound: Outbound
    _watch: asyncio.TimerHandle

    def __init__(self, house: House) -> None:
        self._house = house
        self._loop = asyncio.get_running_loop()
        self._cutter = FrameCutter()
        self._greeted = False
        #: It is ending: what still comes is not read.
        self._over = False
        #: When the client said something last, and when we asked it whether it is there.
        self._heard = self._asked = time.monotonic()
        #: What frames do, by their types, but for those with data.
        self._handlers: Mapping[int, Callable[[int, int, bytes], None]] = {}

    # What the transport tells

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=_MAX_UNSENT_BYTES)
        self._outbound = Outbound(transport, self._loop)
        peer = _name_of(transport.get_extra_info("peername"))
        self._streams = Streams(
            self._outbound, peer, self._house.find, tasks=self._house.tasks, on_idle=self._close_if_done
        )
        self._handlers = {
            frames.HEADERS: self._streams.on_headers,
            frames.PRIORITY: self._on_priority,
            frames.RST_STREAM: self._streams.on_reset,
            frames.SETTINGS: self._on_settings,
            frames.PUSH_PROMISE: self._on_push_promise,
            frames.PING: self._on_ping,
            frames.GOAWAY: self._on_goaway,
            frames.WINDOW_UPDATE: self._on_window_update,
            frames.CONTINUATION: self._streams.on_continuation,
        }
        transport.write(settings.GREETING)
        self._watch = self._loop.call_later(HANDSHAKE_SECONDS, self._give_up)
        self._house.connected(self)

    def data_received(self, data: bytes) -> None:
        self._heard = time.monotonic()
        if self._over:
            return
        self._outbound.collect()
        try:
            for kind, flags, stream, payload in self._cutter.cut(data):
                try:
                    self._receive(kind, flags, stream, payload)
                except StreamFault as fault:
                    self._streams.reset(fault)
            if self._streams.fault is not None:
                raise self._streams.fault
        except ConnectionFault as fault:
            self._fail(fault)
        self._outbound.flush()
        self._close_if_done()

    def pause_writing(self) -> None:
        self._outbound.pause()

    def resume_writing(self) -> None:
        self._outbound.resume()
        self._close_if_done()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._watch.cancel()
        self._outbound.close()
        self._streams.lose()
        self._handlers = {}
        self._house.disconnected(self)

    # What the server tells

    def leave(self) -> None:
        """Take no further calls; those that are open go on, and with the last one the connection ends."""
        if not self._over and not self._streams.leaving:
            self._streams.leaving = True
            self._streams.control(frames.goaway(self._streams.last_served, ErrorCode.NO_ERROR))
            self._outbound.flush()
            self._close_if_done()

    def abort(self) -> None:
        """End at once."""
        self._transport.abort()

    # What frames that concern the connection do

    def _receive(self, kind: int, flags: int, stream: int, payload: Chunk) -> None:
        self._streams.check_sequence(kind)
        if not self._greeted and kind != frames.SETTINGS:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if kind == frames.DATA:
            self._streams.on_data(flags, stream, payload)
        elif kind in self._handlers:
            self._handlers[kind](flags, stream, bytes(payload))
        else:
            self._streams.endure()

    def _on_priority(self, flags: int, stream: int, payload: bytes) -> None:
        self._streams.endure()
        if not stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a priority of the connection")
        if len(payload) != 5:
            raise StreamFault(stream, ErrorCode.FRAME_SIZE_ERROR, "a priority of another size than 5")

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        self._streams.endure()
        if stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "settings of a stream")
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement with settings")
            return
        for number, value in settings.read_settings(payload).items():
            if number == settings.INITIAL_WINDOW_SIZE:
                self._streams.set_initial_window(value)
            elif number == settings.MAX_FRAME_SIZE:
                self._outbound.allow_frames_of(value)
            elif number == settings.MAX_HEADER_LIST_SIZE:
                self._streams.max_list_bytes = _safe(value)
            elif number == settings.HEADER_TABLE_SIZE:
                self._outbound.shrink_table(value)
        self._streams.control(frames.frame(frames.SETTINGS, frames.ACK, 0))
        if not self._greeted:
            self._greeted = True
            self._watch.cancel()
            self._check_silence()

    def _on_push_promise(self, flags: int, stream: int, payload: bytes) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client that promises")

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a ping of a stream")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a ping of another size than 8")
        self._streams.endure()
        if not flags & frames.ACK:
            self._streams.control(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _on_goaway(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a goaway of a stream")
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a goaway that is cut off")
        # It tells which streams of ours the client serves, and there are none. Those of its own it still ends.
        self._streams.endure()

    def _on_window_update(self, flags: int, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a window of another size than 4")
        increment = int.from_bytes(payload, "big") & frames.MAX_31_BITS
        if stream:
            self._streams.on_window_update(stream, increment)
        elif increment:
            self._outbound.widen(increment)
        else:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the window is widened by 0")

    # How it ends

    def _give_up(self) -> None:
        logger.debug("%s does not speak HTTP/2", self._streams.peer)
        self.abort()

    def _check_silence(self) -> None:
        """Ping a client that was silent for long; let go of one that does not answer."""
        now, limit = time.monotonic(), self._house.silence_seconds
        silent, waited = now - self._heard, now - self._asked
        if self._asked <= self._heard:
            wait_seconds = limit * 2 / 3 - silent
            if wait_seconds <= 0:
                self._asked = now
                self._streams.control(_PING)
                wait_seconds = limit / 3
        else:
            wait_seconds = limit / 3 - waited
            if wait_seconds <= 0:
                logger.debug("%s has not answered for %.0f s", self._streams.peer, silent)
                self.abort()
                return
        self._watch = self._loop.call_later(wait_seconds, self._check_silence)

    def _fail(self, fault: ConnectionFault) -> None:
        logger.debug("end the connection of %s: %s", self._streams.peer, fault)
        self._over = True
        self._streams.lose()
        if self._cutter.begun:
            self._outbound.control(frames.goaway(self._streams.last_served, fault.code, fault.reason))
        self._linger(self.abort)

    def _close_if_done(self) -> None:
        if self._streams.leaving and not self._over and self._streams.idle and self._outbound.idle:
            self._over = True
            self._linger(self._abort_when_sent)

    def _linger(self, end: Callable[[], None]) -> None:
        """End our side. Closed at once, what the client has sent meanwhile would cost it what it has not read."""
        self._outbound.close()
        self._watch.cancel()
        if not self._transport.can_write_eof():
            self._transport.close()
            return
        try:
            self._transport.write_eof()
        except OSError:
            self.abort()  # the client was quicker
        else:
            self._watch = self._loop.call_later(_LINGER_SECONDS, end)

    def _abort_when_sent(self) -> None:
        """Abort once the transport is rid of the last answers; the server's stop does not wait for ever."""
        sent = not self._transport.get_write_buffer_size()
        end = self.abort if sent else self._abort_when_sent
        self._watch = self._loop.call_later(_LINGER_SECONDS, end)


def _name_of(address: Any) -> str:
    """Return an address as gRPC writes it."""
    if not isinstance(address, tuple):
        return "unknown"
    host, port = address[:2]
    return f"ipv6:{quote(f'[{host}]')}:{port}" if ":" in host else f"ipv4:{host}:{port}"


def _safe(list_bytes: int) -> int:
    """Return how large a header list may be without a client refusing it now and then.

    gRPC's announce where they refuse every list, and begin with some at 8 of the usual 16 KiB, or at four fifths of
    what was set.
    """
    return min(list_bytes, 8 * 1024) if list_bytes <= 16 * 1024 else list_bytes * 4 // 5

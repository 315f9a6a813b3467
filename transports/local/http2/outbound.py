"""What goes out on a connection: within the client's windows, fair between streams, in few writes.

Frames that need no window (settings, pings, resets) go at once; what a client that reads nothing causes of them is
limited. Messages wait for the windows of their stream and of the connection, and with their stream's trailers for the
transport. Trailers need no window, so that a status reaches a client that does not read its stream.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection

from transports.local.http2 import status
from transports.local.http2.errors import ConnectionFault, ErrorCode, GoneError
from transports.local.http2.flows import Flow, Piece
from transports.local.http2.frames import DATA, END_HEADERS, END_STREAM, HEAD, HEADERS, MAX_31_BITS, header_frames
from transports.local.http2.messages import PREFIX_BYTES, prefixed
from transports.local.http2.turns import Turns
from transports.local.http2.windows import DEFAULT_WINDOW_BYTES

#: Bytes that are written at once, after which the transport may say that it has enough.
_WRITE_BYTES = 256 * 1024
#: Most bytes of a frame of ours, so that streams take turns.
_MAX_FRAME_BYTES = 64 * 1024
#: Most bytes of such frames as go at once, while the client does not read.
_MAX_UNREAD_BYTES = 1 << 20

#: What the dynamic table of header blocks may have unless a client says otherwise; and the update that it has none.
_DEFAULT_TABLE_BYTES, _NO_TABLE = 4096, b"\x20"

_RESPONSE_FRAME = HEAD.pack(0, len(status.RESPONSE), HEADERS, END_HEADERS, 0)[:5]
_OK_FRAME = HEAD.pack(0, len(status.OK), HEADERS, END_HEADERS | END_STREAM, 0)[:5]


class Outbound:
    """The sending half of a connection."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._window = DEFAULT_WINDOW_BYTES
        self._max_frame_bytes = 1 << 14
        self._turns = Turns()
        #: Frames of calls' messages that were sent.
        self.sent_frames = 0
        self._paused = False
        self._unread_bytes = 0
        self._parts: list[bytes | memoryview] = []
        self._collecting = False
        self._closed = False
        #: What the next header block has to begin with.
        self._table_update = b""

    @property
    def idle(self) -> bool:
        """Nothing waits for the client to read."""
        return not self._paused and not self._turns

    def allow_frames_of(self, size_bytes: int) -> None:
        """Take over the client's MAX_FRAME_SIZE."""
        self._max_frame_bytes = min(size_bytes, _MAX_FRAME_BYTES)

    def widen(self, increment: int) -> None:
        """Take over a WINDOW_UPDATE of the connection.

        Raises:
            ConnectionFault: The window is too large then.
        """
        if self._window + increment > MAX_31_BITS:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is too large")
        self._window += increment
        self._pump()

    def widen_flows(self, flows: Collection[Flow], change: int) -> bool:
        """Change the windows of streams; False, and nothing is changed, if one were too large then."""
        if any(flow.window + change > MAX_31_BITS for flow in flows):
            return False
        for flow in flows:
            flow.window += change
            if flow.pieces and flow.window > 0:
                self._turns.add(flow)
        self._pump()
        return True

    def shrink_table(self, size_bytes: int) -> None:
        """Take over the client's HEADER_TABLE_SIZE: we use no table, and have to say so if it is a small one."""
        if size_bytes < _DEFAULT_TABLE_BYTES:
            self._table_update = _NO_TABLE

    def close(self) -> None:
        """Write what there is, and nothing from now on."""
        self.flush()
        self._closed = True

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._unread_bytes = 0
        self._pump()

    def collect(self) -> None:
        """Write nothing until ``flush``, then all at once."""
        self._collecting = True

    def flush(self) -> None:
        self._collecting = False
        parts, self._parts = self._parts, []
        if parts:
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def control(self, frame: bytes) -> bool:
        """Send a frame that needs no window; False if the client reads nothing and causes more and more of them."""
        self._emit(frame)
        if self._paused:
            self._unread_bytes += len(frame)
        return self._unread_bytes <= _MAX_UNREAD_BYTES

    def send_headers(self, stream: int, block: bytes, *, ended: bool) -> bool:
        """Send a header block; False as with ``control``."""
        block, self._table_update = self._table_update + block, b""
        return self.control(header_frames(stream, block, self._max_frame_bytes, ended=ended))

    def answer(self, flow: Flow, message: bytes, *, alone: bool) -> None:
        """Send a call's only message and its good end, at once if they fit; ``alone`` if no other call is open."""
        size = len(message) + PREFIX_BYTES
        if flow.opened or self._table_update or not self._fits(flow, size):
            self._push(flow, Piece(memoryview(prefixed(message)), None))
            self.end(flow, status.OK)
            return
        self._window -= size
        self.sent_frames += 1
        flow.ended = flow.opened = True
        stream = flow.stream.to_bytes(4, "big")
        data = HEAD.pack(size >> 16, size & 0xFFFF, DATA, 0, flow.stream)
        parts = (_RESPONSE_FRAME, stream, status.RESPONSE, data, prefixed(message), _OK_FRAME, stream, status.OK)
        self._emit(b"".join(parts), alone=alone)
        flow.on_sent()

    def write(self, flow: Flow, message: bytes) -> asyncio.Future[None] | None:
        """Send a message; return None if it is on its way, else what ends when it is.

        Raises:
            GoneError: Nothing can be sent on the stream any more.
        """
        if flow.ended or flow.broken or flow.trailers:
            raise GoneError("Nothing can be sent any more.")
        size = len(message) + PREFIX_BYTES
        if self._fits(flow, size):
            self._open(flow)
            self._send_data(flow, prefixed(message), size)
            return None
        sent = self._loop.create_future()
        self._push(flow, Piece(memoryview(prefixed(message)), sent))
        return None if sent.done() else sent

    def withdraw(self, flow: Flow, sent: asyncio.Future[None]) -> None:
        """Leave out a message whose writer waits no longer, or what of it has not been sent."""
        for piece in flow.pieces or ():
            if piece.sent is sent:
                self._leave_out(flow, piece)
                return

    def end(self, flow: Flow, trailers: bytes) -> None:
        """End a stream with trailers, after the messages that wait."""
        if not flow.ended and not flow.trailers:
            flow.trailers = trailers
            self._end(flow)

    def drop(self, flow: Flow) -> None:
        """Forget what waits to be sent; who waits for it is told."""
        self._turns.discard(flow)
        pieces, flow.pieces = flow.pieces, None
        for piece in pieces or ():
            if piece.sent is not None and not piece.sent.done():
                piece.sent.set_exception(GoneError("The client has gone."))

    def _leave_out(self, flow: Flow, piece: Piece) -> None:
        pieces = flow.pieces or deque()
        pieces.remove(piece)
        if piece.begun:
            flow.broken = True
            self.drop(flow)
        if flow.trailers and not flow.ended:
            self._end(flow)

    def _end(self, flow: Flow) -> None:
        if flow.pieces:
            return  # until they are out
        self._turns.discard(flow)
        if self._paused:
            self._turns.add(flow)
        else:
            self._send_trailers(flow)

    def _fits(self, flow: Flow, size: int) -> bool:
        room = min(flow.window, self._window, self._max_frame_bytes)
        return size <= room and not flow.pieces and not self._paused and not flow.trailers

    def _push(self, flow: Flow, piece: Piece) -> None:
        if flow.pieces is None:
            flow.pieces = deque()
        flow.pieces.append(piece)
        self._turns.add(flow)
        self._pump()

    def _pump(self) -> None:
        """Send what may be sent, a frame of each stream in turn."""
        written = 0
        while not self._paused and (flow := self._turns.take(room=self._window > 0)) is not None:
            written += self._take_turn(flow)
            if written >= _WRITE_BYTES:
                self.flush()  # after which the transport may have paused us
                written = 0

    def _take_turn(self, flow: Flow) -> int:
        """Send one frame of a stream, and its end if there is nothing more; return how much."""
        size = 0
        if flow.pieces:
            piece = flow.pieces[0]
            if piece.sent is not None and piece.sent.cancelled():
                self._leave_out(flow, piece)  # its writer was cancelled, and has not had its turn to withdraw it
                if flow.pieces:
                    self._turns.add(flow)
                return 0
            size = min(len(piece.rest), flow.window, self._window, self._max_frame_bytes)
            if size <= 0:
                return 0  # until its window is larger
            self._open(flow)
            self._send_data(flow, piece.rest[:size], size)
            piece.begun, piece.rest = True, piece.rest[size:]
            if not piece.rest:
                flow.pieces.popleft()
                if piece.sent is not None and not piece.sent.done():
                    piece.sent.set_result(None)
        if flow.pieces:
            self._turns.add(flow)
        elif flow.trailers:
            self._send_trailers(flow)
        return size

    def _open(self, flow: Flow) -> None:
        if not flow.opened:
            flow.opened = True
            self.send_headers(flow.stream, status.RESPONSE, ended=False)

    def _send_data(self, flow: Flow, data: bytes | memoryview, size: int) -> None:
        flow.window -= size
        self._window -= size
        self.sent_frames += 1
        self._emit(HEAD.pack(size >> 16, size & 0xFFFF, DATA, 0, flow.stream))
        self._emit(data)

    def _send_trailers(self, flow: Flow) -> None:
        flow.ended = True
        block = flow.trailers if flow.opened else status.RESPONSE + flow.trailers
        flow.opened = True
        self.send_headers(flow.stream, block, ended=True)
        flow.on_sent()

    def _emit(self, data: bytes | memoryview, *, alone: bool = False) -> None:
        """Write now, or with what else this turn of the event loop has to write."""
        if self._closed:
            return
        if alone and not self._collecting:
            self._transport.write(data)
            return
        self._parts.append(data)
        if not self._collecting:
            self._collecting = True
            self._loop.call_soon(self.flush)

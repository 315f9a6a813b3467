"""The streams of one connection: each is a call, from the headers that open it until everything is sent."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from transports.local.http2 import frames, status
from transports.local.http2.blocks import MAX_BLOCK_BYTES, BlockReader
from transports.local.http2.calls import Call
from transports.local.http2.credit import Credit
from transports.local.http2.errors import ConnectionFault, ErrorCode, StatusError, StreamFault
from transports.local.http2.floods import Patience
from transports.local.http2.messages import ENCODINGS
from transports.local.http2.methods import Method
from transports.local.http2.outbound import Outbound
from transports.local.http2.requests import Request, read_request
from transports.local.http2.settings import MAX_STREAMS
from transports.local.http2.windows import DEFAULT_WINDOW_BYTES

logger = logging.getLogger(__name__)

#: Finds the method of a path, or raises ``StatusError``.
Find = Callable[[str], Method]

#: Streams that are remembered after we ended them before their clients did: what still comes on them is no fault.
_MAX_ENDED_EARLY = 1000
#: Calls whose windows are changed for as much as a frame that does nothing costs us.
_WALKED_PER_FRAME = 100
#: Most frames that a header block is split into.
_MAX_CONTINUATIONS = 64


@dataclass(slots=True)
class _Opening:
    """A header block of which more is to come."""

    stream: int
    ended: bool
    block: bytearray
    frames: int = 0


class Streams:
    """What a client asks on one connection."""

    def __init__(
        self,
        outbound: Outbound,
        peer: str,
        find: Find,
        *,
        tasks: set[asyncio.Task[None]],
        on_idle: Callable[[], None],
    ) -> None:
        self.outbound = outbound
        self.peer = peer
        self.tasks = tasks
        self.handling = 0
        #: Bytes of a header list that the client takes without fail; it has no limit unless it says so.
        self.max_list_bytes = 1 << 32
        #: The latest stream that the client has opened, and the latest that is served.
        self._last = 0
        self.last_served = 0
        #: The client was told that no further streams are served.
        self.leaving = False
        self.credit = Credit(self.control)
        self._patience = Patience()
        self._resets = Patience()
        #: Frames of calls that have come.
        self._work = 0
        self._find = find
        self._on_idle = on_idle
        self._calls: dict[int, Call] = {}
        self._ended_early: OrderedDict[int, None] = OrderedDict()
        self._reader = BlockReader(read_request)
        self._opening: _Opening | None = None
        self._initial_window = DEFAULT_WINDOW_BYTES
        #: A fault that was found beside the frames; it ends the connection with the next one.
        self.fault: ConnectionFault | None = None

    @property
    def idle(self) -> bool:
        """No call is open."""
        return not self._calls

    # What calls need

    def is_alone(self) -> bool:
        return len(self._calls) <= 1

    def control(self, frame: bytes) -> None:
        """Send a frame that needs no window."""
        self._require(self.outbound.control(frame))

    def forget(self, call: Call) -> None:
        if self._calls.pop(call.stream, None) is not None and not call.half_closed:
            self._leave_unread(call.stream)
        if self.leaving and not self._calls:
            self._on_idle()

    # What frames do

    def endure(self, frames: int = 1) -> None:
        """Count frames that do nothing; raise ``ConnectionFault`` if they are too many beside those that do."""
        self._patience.spend(frames, work=self._work + self.outbound.sent_frames)

    def check_sequence(self, kind: int) -> None:
        """Raise ``ConnectionFault`` if a frame stands between those of one header block."""
        if self._opening is not None and kind != frames.CONTINUATION:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block was not ended")

    def on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        block = frames.without_priority(bytes(frames.unpadded(payload, flags)), flags)
        ended = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            self._read(stream, block, ended=ended)
        else:
            self._opening = _Opening(stream, ended, bytearray(block))

    def on_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        opening = self._opening
        if opening is None or opening.stream != stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a continuation of nothing")
        opening.block += payload
        opening.frames += 1
        if opening.frames > _MAX_CONTINUATIONS or len(opening.block) > MAX_BLOCK_BYTES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block does not end")
        if flags & frames.END_HEADERS:
            self._opening = None
            self._read(stream, bytes(opening.block), ended=opening.ended)

    def on_data(self, flags: int, stream: int, payload: frames.Chunk) -> None:
        size, ended = len(payload), bool(flags & frames.END_STREAM)
        self.credit.receive(size)
        data = frames.unpadded(payload, flags)
        if data or ended:
            self._work += 1
        else:
            self.endure()
        call = self._calls.get(stream)
        if call is not None:
            call.receive(data, size, ended=ended)
        elif stream > self._last or not stream & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"data on the idle stream {stream}")
        elif stream not in self._ended_early:
            raise StreamFault(stream, ErrorCode.STREAM_CLOSED, "data on a closed stream")

    def on_reset(self, flags: int, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a reset of another size than 4")
        self._check_not_idle(stream, "a reset")
        call = self._calls.pop(stream, None)
        if call is None:
            self.endure()
        else:
            call.lose()
            self._resets.spend()

    def on_window_update(self, stream: int, increment: int) -> None:
        """Widen a stream's window."""
        self._check_not_idle(stream, "a window")
        call = self._calls.get(stream)
        if call is None:
            return
        if not increment:
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR, "a window that is widened by 0")
        if not self.outbound.widen_flows((call,), increment):
            raise StreamFault(stream, ErrorCode.FLOW_CONTROL_ERROR, "the window is too large")

    def set_initial_window(self, size_bytes: int) -> None:
        """Take over the client's INITIAL_WINDOW_SIZE, for the streams that are open, too."""
        change, self._initial_window = size_bytes - self._initial_window, size_bytes
        if change:
            self.endure(len(self._calls) // _WALKED_PER_FRAME)
            if not self.outbound.widen_flows(self._calls.values(), change):
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window is too large")

    def reset(self, fault: StreamFault) -> None:
        """End a stream for what its client did."""
        logger.debug("reset %s of %s", fault, self.peer)
        self._resets.spend()
        call = self._calls.pop(fault.stream, None)
        if call is not None:
            call.lose()
        self._end_early(fault.stream)
        self.control(frames.rst_stream(fault.stream, fault.code))

    def lose(self) -> None:
        """Take note that the connection has gone, or is as good as gone."""
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.lose()

    def _read(self, stream: int, block: bytes, *, ended: bool) -> None:
        self._work += 1
        # Whatever becomes of the stream, the block may change how the next one is read.
        request = self._reader.read(block)
        call = self._calls.get(stream)
        if call is not None:
            self._end_with_trailers(call, request, ended=ended)
        elif not stream & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{stream} is no stream of a client")
        elif stream > self._last:
            self._last = stream
            self._open(stream, request, ended=ended)
        elif stream not in self._ended_early:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"headers on the closed stream {stream}")

    def _open(self, stream: int, request: Request, *, ended: bool) -> None:
        if self.leaving:
            self._end_early(stream)  # the client knows that it was not served
            return
        self.last_served = stream
        if len(self._calls) >= MAX_STREAMS or self.handling >= MAX_STREAMS:
            raise StreamFault(stream, ErrorCode.REFUSED_STREAM, "too many streams")
        if request.malformed:
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR, request.malformed)
        if request.http_status:
            block = status.write_http_status(request.http_status)
            self._require(self.outbound.send_headers(stream, block, ended=True))
            if not ended:
                self._leave_unread(stream)
            return
        call = self._calls[stream] = Call(self, stream, self._initial_window, request)
        call.half_closed = ended
        if request.refusal is not None:
            code, text = request.refusal
            call.finish(code, text, (("grpc-accept-encoding", ",".join(ENCODINGS)),))
            return
        try:
            method = self._find(request.path)
        except StatusError as exc:
            call.refuse(exc)
        else:
            call.begin(method)

    @staticmethod
    def _end_with_trailers(call: Call, trailers: Request, *, ended: bool) -> None:
        if call.half_closed:
            raise StreamFault(call.stream, ErrorCode.STREAM_CLOSED, "headers after the end of the stream")
        if not ended:
            raise StreamFault(call.stream, ErrorCode.PROTOCOL_ERROR, "headers in the middle of a stream")
        if not trailers.malformed:
            raise StreamFault(call.stream, ErrorCode.PROTOCOL_ERROR, "trailers that are a request")
        call.receive_end()

    def _check_not_idle(self, stream: int, what: str) -> None:
        if stream > self._last or not stream & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{what} of the idle stream {stream}")

    def _require(self, read: bool) -> None:
        """End the connection with its next frame if the client does not read what it causes."""
        if not read:
            self.fault = ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "what is caused is not read")

    def _leave_unread(self, stream: int) -> None:
        """Tell a client that was answered that it need not send the rest (RFC 9113, section 8.1)."""
        self._end_early(stream)
        self.control(frames.rst_stream(stream, ErrorCode.NO_ERROR))

    def _end_early(self, stream: int) -> None:
        self._ended_early[stream] = None
        if len(self._ended_early) > _MAX_ENDED_EARLY:
            self._ended_early.popitem(last=False)

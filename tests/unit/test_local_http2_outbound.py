"""What goes out: in order, within the windows, in turns, and ended at any moment."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from http2_client import DATA, END_STREAM, HEADERS, PREFACE, Frame
from hypothesis import given
from hypothesis import strategies as st

from transports.local.http2 import status
from transports.local.http2.errors import ConnectionFault, GoneError
from transports.local.http2.flows import Flow, Piece
from transports.local.http2.frames import MAX_31_BITS, FrameCutter
from transports.local.http2.outbound import Outbound
from transports.local.http2.turns import Turns
from transports.local.http2.windows import DEFAULT_WINDOW_BYTES, ReceiveWindow

TRAILERS = status.OK
PING = Frame(6, 1, 0, bytes(8)).to_bytes()


class Transport:
    """Takes what is written."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def frames(self) -> list[Frame]:
        return [Frame(*each) for each in FrameCutter().cut(PREFACE + b"".join(self.writes))]

    def data(self, stream: int) -> bytes:
        return b"".join(each.payload for each in self.frames() if each.kind == DATA and each.stream == stream)


class Bench:
    """The sending half of a connection, and what comes out of it."""

    def __init__(self) -> None:
        self.transport = Transport()
        found: Any = self.transport
        self.outbound = Outbound(found, asyncio.get_running_loop())

    async def write(self, flow: Flow, message: bytes) -> None:
        sent = self.outbound.write(flow, message)
        if sent is not None:
            await sent

    async def settle(self) -> None:
        """Let the event loop have its turn."""
        for _ in range(3):
            await asyncio.sleep(0)


def run(test: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        await test(Bench())

    asyncio.run(main())


def test_an_answer_is_one_write() -> None:
    async def main(bench: Bench) -> None:
        flow = Flow(1, 100)
        bench.outbound.answer(flow, b"yes", alone=True)
        assert len(bench.transport.writes) == 1
        assert [(each.kind, each.flags & END_STREAM) for each in bench.transport.frames()] == [
            (HEADERS, 0),
            (DATA, 0),
            (HEADERS, END_STREAM),
        ]
        assert flow.ended

    run(main)


def test_what_one_turn_of_the_loop_has_to_write_is_one_write() -> None:
    async def main(bench: Bench) -> None:
        for stream in (1, 3, 5):
            bench.outbound.answer(Flow(stream, 100), b"yes", alone=False)
        assert bench.transport.writes == []
        await bench.settle()
        assert len(bench.transport.writes) == 1

    run(main)


def test_several_may_write_at_once_and_one_is_written_after_the_other() -> None:
    async def main(bench: Bench) -> None:
        flow = Flow(1, 0)
        writers = [asyncio.ensure_future(bench.write(flow, name)) for name in (b"a", b"b", b"c")]
        await bench.settle()
        sent = (flow.pieces or [])[1].sent
        assert sent is not None
        writers[1].cancel()
        bench.outbound.withdraw(flow, sent)  # nothing of it has gone out
        bench.outbound.widen_flows((flow,), 100)
        await asyncio.gather(writers[0], writers[2])
        await bench.settle()
        assert bench.transport.data(1) == as_sent(b"a", b"c")

    run(main)


def as_sent(*messages: bytes) -> bytes:
    return b"".join(b"\0" + len(each).to_bytes(4, "big") + each for each in messages)


def test_a_message_that_was_cut_off_is_the_last_and_a_status_can_follow() -> None:
    async def main(bench: Bench) -> None:
        flow = Flow(1, 10)
        writing = asyncio.ensure_future(bench.write(flow, b"x" * 100))
        await bench.settle()
        behind = asyncio.ensure_future(bench.write(flow, b"behind"))
        await bench.settle()
        piece = (flow.pieces or [])[0]
        assert piece.sent is not None
        writing.cancel()
        bench.outbound.withdraw(flow, piece.sent)
        bench.outbound.widen_flows((flow,), 100)
        with pytest.raises(GoneError):
            await behind
        with pytest.raises(GoneError):
            bench.outbound.write(flow, b"more")
        bench.outbound.end(flow, TRAILERS)
        await bench.settle()
        assert len(bench.transport.data(1)) == 10
        assert bench.transport.frames()[-1] == Frame(HEADERS, 0x5, 1, TRAILERS)

    run(main)


def test_who_waits_is_told_that_the_client_has_gone() -> None:
    async def main(bench: Bench) -> None:
        flow = Flow(1, 0)
        writing = asyncio.ensure_future(bench.write(flow, b"x"))
        await bench.settle()
        bench.outbound.drop(flow)
        with pytest.raises(GoneError):
            await writing

    run(main)


def test_nothing_but_frames_without_a_window_goes_while_the_transport_is_full() -> None:
    async def main(bench: Bench) -> None:
        bench.outbound.pause()
        first, second = Flow(1, 100), Flow(3, 100)
        bench.outbound.answer(first, b"yes", alone=True)
        bench.outbound.end(second, TRAILERS)
        await bench.settle()
        assert bench.transport.writes == []
        assert not bench.outbound.idle
        assert bench.outbound.control(PING)
        bench.outbound.resume()
        await bench.settle()
        assert [each.stream for each in bench.transport.frames()] == [0, 1, 1, 1, 3]
        assert first.ended
        assert second.ended
        assert bench.outbound.idle

    run(main)


def test_a_client_that_reads_nothing_cannot_cause_more_and_more() -> None:
    async def main(bench: Bench) -> None:
        bench.outbound.pause()
        taken = 0
        while bench.outbound.control(PING):
            taken += len(PING)
            assert taken < 2_000_000

    run(main)


def test_a_window_that_is_too_large_is_refused() -> None:
    async def main(bench: Bench) -> None:
        flow = Flow(1, 10)
        assert bench.outbound.widen_flows((flow,), MAX_31_BITS - 10)
        assert not bench.outbound.widen_flows((flow,), 1)
        assert flow.window == MAX_31_BITS
        with pytest.raises(ConnectionFault):
            bench.outbound.widen(MAX_31_BITS)

    run(main)


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 40_000), max_size=4), st.sampled_from([0, 100, 30_000, 1 << 20])),
        min_size=1,
        max_size=4,
    ),
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 50_000), st.booleans()), max_size=30),
)
def test_whatever_the_windows_all_messages_arrive_in_order(
    sent: list[tuple[list[int], int]], updates: list[tuple[int, int, bool]]
) -> None:
    async def main(bench: Bench) -> None:
        windows, connection = [window for _, window in sent], DEFAULT_WINDOW_BYTES
        flows = [Flow(2 * index + 1, window) for index, window in enumerate(windows)]
        expected = []
        for flow, (sizes, _) in zip(flows, sent, strict=True):
            messages = [bytes((size % 251,)) * size for size in sizes]
            expected.append(as_sent(*messages))
            for each in messages:
                bench.outbound.write(flow, each)
            bench.outbound.end(flow, TRAILERS)

        def within() -> None:
            lengths = [len(bench.transport.data(flow.stream)) for flow in flows]
            assert all(size <= window for size, window in zip(lengths, windows, strict=True))
            assert sum(lengths) <= connection

        await bench.settle()
        within()
        for which, size, pause in updates:
            if pause:
                bench.outbound.pause()
            if which < len(flows):
                windows[which] += size
                bench.outbound.widen_flows((flows[which],), size)
            else:
                connection += size
                bench.outbound.widen(size)
            bench.outbound.resume()
            await bench.settle()
            within()
        bench.outbound.widen(1 << 20)
        for flow in flows:
            bench.outbound.widen_flows((flow,), 1 << 20)
        await bench.settle()
        assert [bench.transport.data(flow.stream) for flow in flows] == expected
        assert all(flow.ended for flow in flows)
        assert bench.outbound.idle

    run(main)


def test_who_waits_for_the_connections_window_costs_nothing_until_it_is_widened() -> None:
    async def main(bench: Bench) -> None:
        def steps_with(waiting: int) -> int:
            """Return how many functions are called for a thousand updates beside so many streams that wait."""
            for stream in range(waiting):
                bench.outbound.answer(Flow(2 * stream + 1, 1 << 20), b"x" * 100_000, alone=False)
            flow = Flow(1_000_001, 0)
            bench.outbound.answer(flow, b"x", alone=False)
            events: list[str] = []
            sys.setprofile(lambda frame, event, argument: events.append(event))
            try:
                for _ in range(1000):
                    bench.outbound.widen_flows((flow,), 1)
            finally:
                sys.setprofile(None)
            return len(events)

        few = steps_with(10)
        assert steps_with(3000) < 2 * few

    run(main)


def test_a_status_passes_those_that_wait_for_the_connections_window() -> None:
    async def main(bench: Bench) -> None:
        waiting = [Flow(stream, 1 << 20) for stream in (1, 3)]
        for flow in waiting:
            bench.outbound.answer(flow, b"x" * 100_000, alone=False)
        bench.outbound.pause()
        bench.outbound.end(Flow(5, 0), TRAILERS)
        bench.outbound.resume()
        await bench.settle()
        assert bench.transport.frames()[-1] == Frame(HEADERS, 0x5, 5, status.RESPONSE + TRAILERS)
        assert not any(flow.ended for flow in waiting)

    run(main)


def test_who_found_no_room_comes_first_when_there_is_some() -> None:
    turns = Turns()
    starved, late, ended = Flow(1, 10), Flow(3, 10), Flow(5, 10)
    starved.pieces = late.pieces = deque([Piece(memoryview(b"x"), None)])
    turns.add(starved)
    turns.add(ended)
    assert turns.take(room=False) is ended
    turns.add(starved)
    turns.add(late)
    assert [turns.take(room=True) for _ in range(3)] == [starved, late, None]


def test_a_status_goes_when_the_writer_of_the_last_message_gives_up() -> None:
    async def main(bench: Bench) -> None:
        flow = Flow(1, 0)
        sent = bench.outbound.write(flow, b"x")
        assert sent is not None
        bench.outbound.end(flow, TRAILERS)
        bench.outbound.withdraw(flow, sent)
        await bench.settle()
        assert flow.ended
        assert bench.outbound.idle

    run(main)


def test_small_messages_together_stay_within_the_connections_window() -> None:
    async def main(bench: Bench) -> None:
        flows = [Flow(stream, 1 << 20) for stream in (1, 3)]
        for _ in range(10):
            for flow in flows:
                bench.outbound.write(flow, b"x" * 10_000)
        await bench.settle()
        assert sum(len(bench.transport.data(flow.stream)) for flow in flows) == DEFAULT_WINDOW_BYTES

    run(main)


class TestReceiveWindows:
    def test_one_lacks_what_came_and_is_not_kept_once_that_is_half_of_it(self) -> None:
        window = ReceiveWindow(100)
        assert window.receive(60)
        assert (window.lack(20), window.lack(10)) == (0, 50)
        window.widen(50)
        assert window.receive(90)

    def test_more_than_it_is_noticed(self) -> None:
        window = ReceiveWindow(100)
        assert window.receive(100)
        assert not window.receive(1)

"""Frames: cut in the same way, however their bytes arrive, and made as RFC 9113 says."""

from __future__ import annotations

import pytest
from http2_client import PREFACE, Frame
from hypothesis import given
from hypothesis import strategies as st

from transports.local.http2 import frames
from transports.local.http2.errors import ConnectionFault, ErrorCode
from transports.local.http2.frames import FrameCutter, header_frames, unpadded

FRAMES = st.builds(
    Frame, st.integers(0, 255), st.integers(0, 255), st.integers(0, frames.MAX_31_BITS), st.binary(max_size=300)
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut bytes at places that are counted from the place before."""
    found = []
    for each in cuts:
        found.append(data[:each])
        data = data[each:]
    return [*found, data]


@given(st.lists(FRAMES, max_size=10), st.lists(st.integers(0, 400), max_size=40))
def test_frames_are_the_same_however_their_bytes_arrive(sent: list[Frame], cuts: list[int]) -> None:
    cutter = FrameCutter()
    data = PREFACE + b"".join(each.to_bytes() for each in sent)
    found = [Frame(*each) for piece in pieces(data, cuts) for each in cutter.cut(piece)]
    assert found == sent


def test_a_large_frame_stays_as_it_is_while_others_come() -> None:
    cutter, large = FrameCutter(), bytes(each % 251 for each in range(frames.MAX_FRAME_BYTES))
    data = Frame(0, 0, 1, large).to_bytes()
    assert list(cutter.cut(PREFACE + data[:300_000])) == []
    assert list(cutter.cut(data[300_000:-1])) == []
    (found,) = cutter.cut(data[-1:] + data[:300_000])
    (after,) = cutter.cut(data[300_000:])
    assert found == after == (0, 0, 1, large)


def test_the_reserved_bit_of_a_stream_means_nothing() -> None:
    cutter = FrameCutter()
    assert list(cutter.cut(PREFACE + Frame(8, 0, 0x80000005, b"1234").to_bytes())) == [(8, 0, 5, b"1234")]


@given(st.binary(min_size=1, max_size=50).filter(lambda data: not PREFACE.startswith(data[:24])))
def test_another_preface_is_refused(data: bytes) -> None:
    with pytest.raises(ConnectionFault):
        list(FrameCutter().cut(data))


def test_a_frame_that_is_too_large_is_refused_by_its_head() -> None:
    cutter = FrameCutter()
    list(cutter.cut(PREFACE))
    head = (frames.MAX_FRAME_BYTES + 1).to_bytes(3, "big") + bytes(6)
    with pytest.raises(ConnectionFault) as caught:
        list(cutter.cut(head))
    assert caught.value.code is ErrorCode.FRAME_SIZE_ERROR


@given(st.binary(max_size=100), st.integers(0, 255))
def test_padding_is_taken_away(data: bytes, length: int) -> None:
    assert unpadded(bytes((length,)) + data + bytes(length), frames.PADDED) == data
    assert unpadded(memoryview(bytes((length,)) + data + bytes(length)), frames.PADDED) == data
    assert unpadded(data, 0) == data


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x03ab", b"\xff" + bytes(254)])
def test_more_padding_than_payload_is_refused(payload: bytes) -> None:
    with pytest.raises(ConnectionFault):
        unpadded(payload, frames.PADDED)


@pytest.mark.parametrize("size", [0, 99, 100, 101, 250, 300])
def test_a_header_block_is_split_where_frames_are_small(size: int) -> None:
    block = bytes(each % 256 for each in range(size))
    cutter = FrameCutter()
    found = list(cutter.cut(PREFACE + header_frames(7, block, 100, ended=True)))
    assert b"".join(payload for *_, payload in found) == block
    assert [kind for kind, *_ in found] == [frames.HEADERS] + [frames.CONTINUATION] * (len(found) - 1)
    assert [bool(flags & frames.END_HEADERS) for _, flags, *_ in found] == [False] * (len(found) - 1) + [True]
    assert found[0][1] & frames.END_STREAM
    assert all(len(payload) <= 100 for *_, payload in found)

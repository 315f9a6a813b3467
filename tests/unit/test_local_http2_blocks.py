"""Header blocks: what is remembered of them is never stale."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transports.local.http2.blocks import MAX_BLOCK_BYTES, BlockReader, Headers, list_bytes, write_block
from transports.local.http2.errors import ConnectionFault, ErrorCode

NAMES = st.sampled_from([b":path", b"name", b"other", b"x" * 40])
VALUES = st.sampled_from([b"", b"/", b"one", b"two", b"y" * 60])
HEADERS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=4)


def plain(headers: Headers) -> Headers:
    return [(bytes(name), bytes(value)) for name, value in headers]


@given(st.lists(st.tuples(HEADERS, st.none() | st.sampled_from([0, 60, 100, 200, 4096])), max_size=30))
def test_blocks_mean_what_they_mean_without_a_memory(sent: list[tuple[Headers, int | None]]) -> None:
    """A small table, few names: entries are evicted and come back, and the same bytes mean different things."""
    encoder, decoder, reader = hpack.Encoder(), hpack.Decoder(), BlockReader(plain)
    for headers, table_bytes in sent:
        if table_bytes is not None:
            encoder.header_table_size = table_bytes
        block = encoder.encode(headers, huffman=False)
        assert reader.read(block) == plain(list(decoder.decode(block, raw=True)))


@given(st.lists(st.binary(max_size=12), max_size=30))
def test_arbitrary_blocks_are_read_alike_or_end_the_connection(blocks: list[bytes]) -> None:
    decoder, reader = hpack.Decoder(max_header_list_size=MAX_BLOCK_BYTES), BlockReader(plain)
    for block in blocks:
        try:
            expected = plain(list(decoder.decode(block, raw=True)))
        except hpack.HPACKError:
            with pytest.raises(ConnectionFault):
                reader.read(block)
            return
        assert reader.read(block) == expected


def test_the_same_bytes_mean_something_else_after_the_table_has_changed() -> None:
    reader = BlockReader(plain)
    newest = b"\xbe"
    reader.read(b"\x40\x01a\x01b")
    assert reader.read(newest) == [(b"a", b"b")]
    reader.read(b"\x40\x01c\x01d")
    assert reader.read(newest) == [(b"c", b"d")]
    reader.read(b"\x20")  # the table has no room any more
    with pytest.raises(ConnectionFault):
        reader.read(newest)


def test_and_after_one_entry_has_taken_the_place_of_another() -> None:
    encoder, reader = hpack.Encoder(), BlockReader(plain)
    encoder.header_table_size = 60  # room for one
    for value in (b"one", b"one", b"two", b"two", b"one"):
        assert reader.read(encoder.encode([(b"name", value)])) == [(b"name", value)]


def test_and_after_the_table_has_got_room_for_what_a_block_adds() -> None:
    reader = BlockReader(plain)
    adds = b"\x40\x01a\x01b"
    reader.read(b"\x20")
    assert [reader.read(adds) for _ in range(2)] == [[(b"a", b"b")]] * 2  # there is no room: nothing changes
    reader.read(b"\x3f\xe1\x1f")
    reader.read(adds)
    assert reader.read(b"\xbe") == [(b"a", b"b")]


def test_what_a_block_means_is_found_once() -> None:
    asked: list[Headers] = []

    def interpret(headers: Headers) -> int:
        asked.append(headers)
        return len(asked)

    reader = BlockReader(interpret)
    assert [reader.read(b"\x82") for _ in range(3)] == [1, 1, 1]


def test_not_everything_is_remembered() -> None:
    reader = BlockReader(plain)
    for each in range(10_000):
        reader.read(write_block([("name", str(each))]))
    assert len(reader._remembered) <= 256


def test_what_short_blocks_say_at_length_is_not_remembered_without_end() -> None:
    reader = BlockReader(plain)
    reader.read(b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000)  # an entry of the table that one byte stands for
    said = sum(list_bytes(reader.read(b"\xbe" * 20 + write_block([("name", str(each))]))) for each in range(100))
    assert said > 8_000_000
    remembered = reader._remembered.values()
    assert 0 < sum(map(list_bytes, remembered)) == reader._remembered_bytes <= 1 << 20


def test_after_a_list_beyond_the_announced_limit_the_table_is_as_the_clients() -> None:
    encoder, reader = hpack.Encoder(), BlockReader(plain)
    for headers in ([(b"big", b"x" * 100_000), (b"name", b"value")], [(b"name", b"value")]):
        assert reader.read(encoder.encode(headers)) == headers


def test_a_list_that_is_far_too_large_ends_the_connection() -> None:
    block = b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000 + b"\xbe" * 100
    with pytest.raises(ConnectionFault) as caught:
        BlockReader(plain).read(block)
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_a_block_that_is_too_large_is_not_even_read() -> None:
    with pytest.raises(ConnectionFault, match="block is too large"):
        BlockReader(plain).read(bytes(MAX_BLOCK_BYTES + 1))


def test_our_blocks_use_no_table() -> None:
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = decoder.header_table_size = 0
    headers = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-message", "ä%")]
    for _ in range(2):
        assert [tuple(each) for each in decoder.decode(write_block(headers))] == headers

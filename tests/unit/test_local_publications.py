"""Publish requests: what is read of them is what protobuf reads, and what is written what protobuf writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transports.local import rules, wire
from transports.local.errors import InvalidArgumentError
from transports.local.model import Draft
from transports.local.publications import PublicationReader, write_ids
from transports.local.requests import parse

REQUEST = wire.request_type("PublishRequest")
RESPONSE = wire.request_type("PublishResponse")
MESSAGE = wire.request_type("PubsubMessage")
TOPIC = "projects/p/topics/t-one"
#: One for all requests, as in a broker: what it remembers of one must not spoil another.
READER = PublicationReader()

Read = Callable[[bytes], tuple[str, Callable[[], Sequence[Draft]]]]


def read_by_protobuf(data: bytes) -> tuple[str, Callable[[], Sequence[Draft]]]:
    request = parse(REQUEST, data)
    return request.topic, lambda: wire.read_drafts(request, len(data))


def outcome(read: Read, data: bytes) -> Any:
    """Return all that can be told of a request, or how it is refused and when."""
    try:
        topic, drafts = read(data)
    except InvalidArgumentError as exc:
        return "no request", str(exc)
    try:
        found = drafts()
    except InvalidArgumentError as exc:
        return topic, str(exc)
    return topic, [told(each) for each in found]


def told(draft: Draft) -> Any:
    # Attributes are written in any order.
    payload = MESSAGE.FromString(draft.payload) if draft.attributes else draft.payload
    return payload, dict(draft.attributes), draft.ordering_key


def varint(number: int, spare: int = 0) -> bytes:
    """Return a number as protobuf writes it, with so many bytes more than it needs."""
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    if spare:
        found[-1] |= 0x80
        found += b"\x80" * (spare - 1) + b"\0"
    return bytes(found)


def field(number: int, content: bytes, spare: int = 0) -> bytes:
    return varint(number << 3 | 2) + varint(len(content), spare) + content


def plain(*sizes: int) -> bytes:
    """Return a request for messages with so many bytes of data."""
    messages = [MESSAGE(data=b"x" * each) for each in sizes]
    data: bytes = REQUEST(topic=TOPIC, messages=messages).SerializeToString()
    return data


DATA = st.sampled_from((1, 2, 5, 125, 126, 127, 128, 129, 200, 16_384)).map(lambda size: field(1, b"d" * size))
PLAIN = DATA.map(lambda content: field(2, content))
TEXTS = st.one_of(st.text(max_size=10), st.sampled_from(("googx", "n" * 257, "v" * 1025, "ä" * 513)))
MESSAGES = st.builds(
    MESSAGE,
    data=st.binary(max_size=200),
    attributes=st.dictionaries(TEXTS, TEXTS, max_size=3),
    ordering_key=st.one_of(st.just(""), TEXTS),
    message_id=st.sampled_from(("", "", "17")),
).map(lambda message: message.SerializeToString())
#: Unknown fields, and such as are the broker's.
FURTHER = st.sampled_from(
    (field(9, b"unknown"), b"\x48\x01", b"\x4b\x4b\x4c\x4c", field(4, b"\x08\x01"), b"\x12", b"\x4c")
)
NESTED = st.integers(95, 102).map(lambda depth: b"\x4b" * depth + b"\x4c" * depth)
SPARE = st.sampled_from((1, 2, 3, 7, 8, 9))
CONTENTS = st.one_of(
    MESSAGES,
    NESTED,
    st.builds(lambda size, spare: field(1, b"d" * size, spare), st.sampled_from((0, 5, 200)), SPARE),
    st.tuples(DATA, DATA).map(b"".join),
    st.tuples(DATA, FURTHER).map(b"".join),
    st.tuples(FURTHER, DATA).map(b"".join),
    st.sampled_from((b"", b"\x0a", b"\x0a\0", b"\x0a\x05ab", b"\x0a\x01ab")),
)
#: What a request may have beside plain messages, and what makes it none.
OTHERS = st.one_of(
    CONTENTS.map(lambda content: field(2, content)),
    st.builds(lambda content, spare: field(2, content, spare), DATA, SPARE),
    st.sampled_from((field(1, b"projects/p/topics/other"), field(7, b"unknown"), b"\x13\x14", b"\x12", b"\x10\x05")),
    NESTED,
)
USUAL = field(1, TOPIC.encode())
TOPICS = st.one_of(
    st.just(USUAL),
    st.just(USUAL),
    st.sampled_from((b"", field(1, b""), field(1, b"t" * 200), field(1, TOPIC.encode(), 1))),
    st.sampled_from((field(1, "ä".encode()), field(1, b"\xff"), field(1, b"\0"))),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Give plain messages with something else between them, and maybe a byte changed or the end cut off."""
    fields = draw(st.lists(PLAIN, max_size=4))
    if draw(st.booleans()):
        fields.insert(draw(st.integers(0, len(fields))), draw(OTHERS))
    data = bytearray(draw(TOPICS) + b"".join(fields))
    if data and draw(st.integers(0, 2)) == 0:
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    if draw(st.integers(0, 5)) == 0:
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


class TestReading:
    @given(requests())
    @example(plain(1000, 1000) + field(2, field(1, b"d" * 1000), 1))
    @example(plain(1000, 1000) + field(2, field(1, b"d" * 1000, 1)))
    @example(plain(1000) + field(2, field(1, b"")))
    @example(plain(1000, 1000)[:-1])
    @example(plain(1000, 1000) + b"\x12")
    def test_it_makes_of_a_request_what_protobuf_does(self, data: bytes) -> None:
        assert outcome(READER.read, data) == outcome(read_by_protobuf, data)

    @given(st.binary(max_size=300))
    def test_it_makes_of_noise_what_protobuf_does(self, data: bytes) -> None:
        assert outcome(READER.read, data) == outcome(read_by_protobuf, data)

    @pytest.mark.parametrize(
        "sizes",
        [
            range(1, 300),
            range(16_370, 16_400),
            (2_097_146, 2_097_147, 2_097_148, 2_097_152),
            (9_999_900,),
            (1,) * rules.MAX_MESSAGES,
        ],
    )
    def test_plain_messages_of_any_size_are_taken_as_they_are(
        self, monkeypatch: pytest.MonkeyPatch, sizes: Sequence[int]
    ) -> None:
        data = plain(*sizes)
        expected = outcome(read_by_protobuf, data)
        monkeypatch.delattr("transports.local.publications.parse")
        for _ in range(2):  # the second time with what is remembered of the first
            assert outcome(READER.read, data) == expected
        assert len(expected[1]) == len(sizes)

    @pytest.mark.parametrize("sizes", [(5_000_000, 5_000_000), (10_000_000,), (9_999_000, *(1,) * 999)])
    def test_a_request_may_be_as_large_as_its_data_may_be_and_more(self, sizes: Sequence[int]) -> None:
        found = READER.read(plain(*sizes)).drafts()
        assert [each.payload for each in found] == [MESSAGE(data=b"x" * each).SerializeToString() for each in sizes]

    @pytest.mark.parametrize(
        "sizes", [(), (1,) * (rules.MAX_MESSAGES + 1), (5_000_000, 5_000_001), (10_000_001,), (9_999_002, *(1,) * 999)]
    )
    def test_too_little_and_too_much_is_refused(self, sizes: Sequence[int]) -> None:
        with pytest.raises(InvalidArgumentError, match="A publish request has"):
            READER.read(plain(*sizes)).drafts()

    def test_what_is_no_request_is_refused_at_once(self) -> None:
        with pytest.raises(InvalidArgumentError, match=r"google\.pubsub\.v1\.PublishRequest"):
            READER.read(plain(1000)[:-1])

    def test_what_cannot_be_published_is_refused_once_the_topic_is_known(self) -> None:
        publication = READER.read(plain(1000, 0))
        assert publication.topic == TOPIC
        with pytest.raises(InvalidArgumentError, match="must have data"):
            publication.drafts()


class TestWriting:
    @given(st.integers(1, 1 << 62), st.integers(1, 50))
    @example(95, 10)
    @example(1, 1000)
    @example((1 << 63) - 1000, 1000)
    def test_it_is_what_protobuf_writes(self, first: int, count: int) -> None:
        ids = range(first, first + count)
        assert write_ids(ids) == RESPONSE(message_ids=map(str, ids)).SerializeToString()

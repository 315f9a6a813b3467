"""Request headers, messages and statuses, as gRPC writes them."""

from __future__ import annotations

import urllib.parse

import grpc
import hpack
import pytest
from http2_client import message
from hypothesis import given
from hypothesis import strategies as st

from transports.local.http2.errors import StatusError
from transports.local.http2.messages import MAX_MESSAGE_BYTES, MessageCutter, prefixed
from transports.local.http2.requests import Request, read_request, read_timeout
from transports.local.http2.status import percent_encoded, write_status

BASE = {
    b":method": b"POST",
    b":scheme": b"http",
    b":path": b"/service/Method",
    b"te": b"trailers",
    b"content-type": b"application/grpc",
}


def request(*further: tuple[bytes, bytes], **replaced: bytes) -> Request:
    headers = {**BASE, **{name.replace("_", "-").encode(): value for name, value in replaced.items()}}
    return read_request([*headers.items(), *further])


class TestTimeouts:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("1H", 3600), ("2M", 120), ("30S", 30), ("250m", 0.25), ("5u", 5e-6), ("7n", 7e-9), ("0S", 0)],
    )
    def test_units(self, text: str, seconds: float) -> None:
        assert read_timeout(text) == pytest.approx(seconds)
        assert request(grpc_timeout=text.encode()).timeout_seconds == pytest.approx(seconds)

    @pytest.mark.parametrize("text", ["", "S", "10", "123456789S", "-1S", "1.5S", "1s", "1S ", "٣S"])
    def test_what_is_none_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="timeout"):
            read_timeout(text)

    def test_such_a_call_is_answered(self) -> None:
        refusal = request(grpc_timeout=b"soon").refusal
        assert refusal is not None
        assert refusal[0] is grpc.StatusCode.INTERNAL


class TestMetadata:
    def test_it_is_what_is_nobody_elses(self) -> None:
        found = request((b"authorization", b"Bearer x"), (b"a", b"1"), (b"a", b"2"), (b"user-agent", b"me"))
        assert found.metadata == (("authorization", "Bearer x"), ("a", "1"), ("a", "2"), ("user-agent", "me"))
        assert found.path == "/service/Method"

    @pytest.mark.parametrize(
        ("value", "expected"),
        [(b"AP8Q", [b"\0\xff\x10"]), (b"AP8", [b"\0\xff"]), (b"AP8=", [b"\0\xff"]), (b"AP8=, eA", [b"\0\xff", b"x"])],
    )
    def test_binary_values_are_base64_with_or_without_padding(self, value: bytes, expected: list[bytes]) -> None:
        assert request((b"data-bin", value)).metadata == tuple(("data-bin", each) for each in expected)

    def test_what_is_no_base64_is_answered(self) -> None:
        assert request((b"data-bin", b"???")).refusal is not None

    def test_more_than_was_announced_is_refused(self) -> None:
        assert request((b"big", b"x" * 32_000)).refusal is None
        refusal = request((b"big", b"x" * 33_000)).refusal
        assert refusal is not None
        assert refusal[0] is grpc.StatusCode.RESOURCE_EXHAUSTED

    @pytest.mark.parametrize("kind", [b"application/grpc", b"application/grpc+proto", b"application/grpc;x=y"])
    def test_kinds_of_grpc(self, kind: bytes) -> None:
        assert request(content_type=kind).http_status == 0

    @pytest.mark.parametrize("kind", [b"application/grpc-web", b"application/json", b""])
    def test_other_kinds(self, kind: bytes) -> None:
        assert request(content_type=kind).http_status == 415


class TestContentLength:
    @pytest.mark.parametrize("further", [[], [(b"content-length", b"17")]])
    def test_it_is_told(self, further: list[tuple[bytes, bytes]]) -> None:
        assert request().content_length is None
        assert request((b"content-length", b"17"), *further).content_length == 17

    @pytest.mark.parametrize("text", [b"", b"-1", b"+1", b"1.0", b"0x1", b" 1", b"1, 1", b"9" * 5000])
    def test_what_is_no_number_is_malformed(self, text: bytes) -> None:
        assert request((b"content-length", text)).malformed

    def test_two_that_differ_are_malformed(self) -> None:
        assert request((b"content-length", b"1"), (b"content-length", b"2")).malformed


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=8))
def test_any_headers_are_read(headers: list[tuple[bytes, bytes]]) -> None:
    found = read_request([*BASE.items(), *headers])
    assert found.malformed or found.http_status or found.path


def cut(cutter: MessageCutter, data: bytes) -> list[bytes]:
    """Return the messages that are complete with more data."""
    cutter.add(data)
    found = []
    while cutter.missing_bytes() <= 0:
        found.append(cutter.take())
    return found


class TestMessages:
    @given(st.lists(st.binary(max_size=50), max_size=10), st.integers(1, 20))
    def test_they_are_cut_however_they_arrive(self, bodies: list[bytes], size: int) -> None:
        data = b"".join(map(message, bodies))
        cutter, found = MessageCutter("identity"), []
        for at in range(0, len(data), size):
            found += cut(cutter, data[at : at + size])
        assert (found, cutter.kept_bytes) == (bodies, 0)

    def test_it_is_known_how_much_is_missing(self) -> None:
        cutter, missing = MessageCutter("identity"), []
        for each in (b"\0", b"\0\0\0\x0a", b"1234", b"567890", b"1"):
            cutter.add(each)
            missing.append(cutter.missing_bytes())
        assert missing == [4, 10, 6, 0, -1]

    def test_they_are_sent_as_they_are_read(self) -> None:
        assert cut(MessageCutter("identity"), prefixed(b"one") + prefixed(b"")) == [b"one", b""]

    def test_one_that_is_too_large_is_refused_by_its_length(self) -> None:
        with pytest.raises(StatusError) as caught:
            cut(MessageCutter("identity"), b"\0" + (MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"))
        assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED

    @pytest.mark.parametrize("flag", [1, 2, 255])
    def test_a_flag_that_means_nothing_is_refused(self, flag: int) -> None:
        with pytest.raises(StatusError):
            cut(MessageCutter("identity"), message(b"x", flag))


class TestStatuses:
    @given(st.text())
    def test_texts_travel_as_printable_ascii(self, text: str) -> None:
        encoded = percent_encoded(text)
        assert all(" " <= each <= "~" for each in encoded)
        assert urllib.parse.unquote(encoded) == text.encode(errors="replace").decode()

    def test_plain_texts_stay_readable(self) -> None:
        assert percent_encoded("Bad, 'name' [x]: 100% \n ä") == "Bad, 'name' [x]: 100%25 %0A %C3%A4"

    def test_further_trailers_are_left_out_where_they_are_too_many(self) -> None:
        def names(limit: int) -> list[str]:
            block = write_status(grpc.StatusCode.NOT_FOUND, "why", [("details-bin", b"x" * 1000)], limit)
            return [name for name, _ in hpack.Decoder().decode(block)]

        assert names(2000) == ["grpc-status", "grpc-message", "details-bin"]
        assert names(1000) == ["grpc-status", "grpc-message"]

"""Kombu messages as bytes and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transports.pubsub.payload import NotAMessage, decode, encode


def message(body: Any, **headers: Any) -> dict[str, Any]:
    return {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {"delivery_mode": 2, "delivery_info": {"priority": 0}},
    }


@given(st.text() | st.binary())
def test_a_body_survives(body: str | bytes) -> None:
    found = decode(encode(message(body), exchange="e", routing_key="k"))["body"]
    as_bytes = found.encode() if isinstance(found, str) else found
    assert as_bytes == (body.encode() if isinstance(body, str) else body)


def test_text_is_written_as_it_is() -> None:
    sent = json.loads(encode(message('{"ü": 1}'), exchange="", routing_key="q"))
    assert sent["body"] == '{"ü": 1}'
    assert sent["properties"]["body_encoding"] == "utf-8"


def test_bytes_are_written_as_they_are() -> None:
    body = bytes(range(256)) * 40
    sent = encode(message(body), exchange="", routing_key="q")
    assert sent.endswith(b"\0" + body)
    assert len(sent) < len(body) + 400


def test_what_kombus_own_transports_wrote_is_read() -> None:
    data = b'{"headers": {}, "properties": {"body_encoding": "base64"}, "body": "/w=="}'
    assert decode(data)["body"] == b"\xff"


def test_the_route_is_part_of_the_message() -> None:
    found = decode(encode(message("x", task="t"), exchange="e", routing_key="k"))
    assert found["properties"]["delivery_info"] == {"priority": 0, "exchange": "e", "routing_key": "k"}
    assert found["headers"] == {"task": "t"}


def test_encoding_leaves_the_message_alone() -> None:
    original = message("x")
    encode(original, exchange="e", routing_key="k")
    assert original == message("x")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"hello",
        b"[]",
        b"null",
        b"{}",
        b'{"headers": {}, "properties": {}}',
        b'{"headers": [], "properties": {}, "body": ""}',
        b'{"headers": {}, "properties": null, "body": ""}',
        b'{"headers": {}, "properties": {}, "body": 1}',
        b'{"headers": {}, "properties": {"delivery_info": 5}, "body": "[]"}',
        b'{"headers": {}, "properties": {}, "body": ' + b"[" * 100_000,
        b'{"headers": {"n": {"__type__": "decimal", "__value__": "zz"}}, "properties": {}, "body": ""}',
        b'{"headers": {}, "properties": {"body_encoding": "base64"}, "body": "?"}',
        b'{"headers": {}, "properties": {"body_encoding": "rot13"}, "body": "?"}',
    ],
)
def test_what_is_no_kombu_message_says_so(data: bytes) -> None:
    with pytest.raises(NotAMessage):
        decode(data)

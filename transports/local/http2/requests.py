"""What a call's request headers say: which method, how long, how compressed, and the metadata."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc

from transports.local.http2.blocks import MAX_LIST_BYTES, Headers, list_bytes
from transports.local.http2.messages import ENCODINGS

Metadata = Sequence[tuple[str, str | bytes]]

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_LENGTH = re.compile(r"[0-9]{1,18}")
_NAME = re.compile(r":?[0-9a-z!#$%&'*+.^_`|~-]+")
_PSEUDO = frozenset((":method", ":scheme", ":path", ":authority"))
#: What concerns one connection has no place in HTTP/2.
_FORBIDDEN = frozenset(("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"))
#: Headers that are no metadata.
_OWN = frozenset(("te", "content-type", "content-length", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding"))


@dataclass(frozen=True, slots=True)
class Request:
    """The headers of one call, or why it cannot be one."""

    path: str = ""
    metadata: Metadata = ()
    timeout_seconds: float | None = None
    encoding: str = "identity"
    #: Bytes of data that are to come (``content-length``); None if the client has not said.
    content_length: int | None = None
    #: Not HTTP: the stream is reset.
    malformed: str = ""
    #: HTTP, but not gRPC: the status that it is answered with.
    http_status: int = 0
    #: gRPC, but not as we speak it: what it is answered with.
    refusal: tuple[grpc.StatusCode, str] | None = None


def read_request(headers: Headers) -> Request:
    """Read request headers."""
    try:
        fields = [(name.decode("ascii"), value.decode("ascii")) for name, value in headers]
    except UnicodeDecodeError:
        return Request(malformed="headers must be ASCII")
    if malformed := _malformed(fields):
        return Request(malformed=malformed)
    found = dict(fields)
    kind = found.get("content-type", "")
    if kind != "application/grpc" and not kind.startswith(("application/grpc+", "application/grpc;")):
        return Request(http_status=415)
    if found[":method"] != "POST":
        return Request(http_status=405)
    if list_bytes(headers) > MAX_LIST_BYTES:
        text = f"The headers are larger than {MAX_LIST_BYTES} bytes."
        return Request(found[":path"], refusal=(grpc.StatusCode.RESOURCE_EXHAUSTED, text))
    encoding = found.get("grpc-encoding", "identity")
    if encoding not in ENCODINGS:
        text = f"Requests cannot be compressed with {encoding[:50]!r}."
        return Request(found[":path"], refusal=(grpc.StatusCode.UNIMPLEMENTED, text))
    try:
        timeout = read_timeout(found["grpc-timeout"]) if "grpc-timeout" in found else None
        own = ((name, value) for name, value in fields if name[0] != ":" and name not in _OWN)
        metadata = tuple((name, each) for name, value in own for each in _values(name, value))
    except ValueError as exc:
        return Request(found[":path"], refusal=(grpc.StatusCode.INTERNAL, str(exc)))
    length = int(found["content-length"]) if "content-length" in found else None
    return Request(found[":path"], metadata, timeout, encoding, content_length=length)


def read_timeout(text: str) -> float:
    """Return the seconds of a ``grpc-timeout``.

    Raises:
        ValueError: It is none.
    """
    found = _TIMEOUT.fullmatch(text)
    if found is None:
        raise ValueError(f"The timeout {text[:50]!r} is none.")
    return int(found[1]) * _UNITS[found[2]]


def _malformed(fields: Sequence[tuple[str, str]]) -> str:
    """Return what makes a request no HTTP/2 (RFC 9113, section 8.2)."""
    seen: set[str] = set()
    regular = False
    for name, value in fields:
        if not _NAME.fullmatch(name):
            return f"the header name {name[:50]!r}"
        if any(each in value for each in "\0\r\n"):
            return f"the value of {name}"
        if name[0] != ":":
            regular = True
            if name in _FORBIDDEN or (name == "te" and value != "trailers"):
                return f"the header {name}"
        elif regular or name in seen or name not in _PSEUDO:
            return f"the pseudo-header {name}"
        seen.add(name)
    lengths = {value for name, value in fields if name == "content-length"}
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        return "the content-length"
    missing = {":method", ":scheme", ":path"} - seen
    if missing or not dict(fields)[":path"]:
        return "pseudo-headers are missing"
    return ""


def _values(name: str, value: str) -> Iterator[str | bytes]:
    """Give what a header stands for: of bytes there may be several, each in base64."""
    if not name.endswith("-bin"):
        yield value
        return
    for part in value.split(","):
        plain = part.strip().rstrip("=")
        try:
            yield base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
        except binascii.Error as exc:
            raise ValueError(f"The metadata {name[:50]!r} is not base64.") from exc

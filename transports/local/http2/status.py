"""How calls end on the wire: statuses as trailers, and header blocks that are always the same."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from urllib.parse import quote

import grpc

from transports.local.http2.blocks import write_block

#: Further trailers; the values of those whose names end in ``-bin`` are bytes.
Trailing = Iterable[tuple[str, str | bytes]]

#: The headers of every answer.
RESPONSE = write_block([(":status", "200"), ("content-type", "application/grpc")])
#: The trailers of an answer without an error.
OK = write_block([("grpc-status", "0")])
#: What stands in a message as it is: printable ASCII but for the percent sign.
_PLAIN = "".join(chr(each) for each in range(0x20, 0x7F) if chr(each) != "%")


def write_status(code: grpc.StatusCode, text: str, trailing: Trailing, max_list_bytes: int) -> bytes:
    """Return the trailers of a status; without the further ones if they are more than a client takes."""
    number: int = code.value[0]
    headers = [("grpc-status", str(number))]
    if text:
        headers.append(("grpc-message", percent_encoded(text)))
    further = [(name, _text(value)) for name, value in trailing]
    if sum(len(name) + len(value) + 32 for name, value in (*headers, *further)) <= max_list_bytes:
        headers += further
    return write_block(headers)


def write_http_status(code: int) -> bytes:
    """Return the headers that refuse a request that is not gRPC's."""
    return write_block([(":status", str(code))])


def percent_encoded(text: str) -> str:
    """Return a status' message as it travels."""
    return quote(text, safe=_PLAIN, errors="replace")


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else base64.b64encode(value).decode().rstrip("=")

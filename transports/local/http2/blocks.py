"""Header blocks (HPACK, RFC 7541): what clients send, read; what we send, written without the dynamic table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import hpack

from transports.local.http2.errors import ConnectionFault, ErrorCode

#: Most bytes of a header list, and so of a request's metadata; announced to clients.
MAX_LIST_BYTES = 32 * 1024
#: Most bytes of a block, and of what it says, that are read nevertheless: the call is refused, and the table is kept as
#: the client's is, so that its other calls go on.
MAX_BLOCK_BYTES = 256 * 1024
#: Most blocks that are remembered with what they mean, most bytes of one, and most of all that they say together.
_MAX_REMEMBERED = 256
_MAX_REMEMBERED_BLOCK_BYTES = 1024
_MAX_REMEMBERED_BYTES = 1 << 20
#: What an entry counts beside its name and value (RFC 7541, section 4.1).
_ENTRY_BYTES = 32

# At a lower level it logs every header, and with them secrets.
logging.getLogger("hpack").setLevel(logging.INFO)

T = TypeVar("T")
Headers = list[tuple[bytes, bytes]]


class BlockReader(Generic[T]):
    """Reads the header blocks of one connection; what a block means is found once, as long as it means the same.

    A block's meaning depends on the dynamic table, and a block may change the table. So what blocks mean is forgotten
    whenever the table changes, and only blocks that do not change it are remembered.
    """

    def __init__(self, interpret: Callable[[Headers], T]) -> None:
        self._interpret = interpret
        self._decoder = hpack.Decoder(max_header_list_size=MAX_BLOCK_BYTES)
        self._remembered: dict[bytes, T] = {}
        self._remembered_bytes = 0

    def read(self, block: bytes) -> T:
        """Return what a block means.

        Raises:
            ConnectionFault: It cannot be read, and so none after it.
        """
        if (known := self._remembered.get(block)) is not None:
            return known
        if len(block) > MAX_BLOCK_BYTES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block is too large")
        before = self._table()
        try:
            headers: Headers = list(self._decoder.decode(block, raw=True))
        except hpack.OversizedHeaderListError as exc:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header list is too large") from exc
        except hpack.HPACKError as exc:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "a header block cannot be read") from exc
        found = self._interpret(headers)
        size, newest, length = self._table()
        if length != before[2] or newest is not before[1] or size != before[0]:
            self._forget()
        elif len(block) <= _MAX_REMEMBERED_BLOCK_BYTES:
            self._remember(block, list_bytes(headers), found)
        return found

    def _remember(self, block: bytes, size_bytes: int, found: T) -> None:
        if len(self._remembered) >= _MAX_REMEMBERED or self._remembered_bytes + size_bytes > _MAX_REMEMBERED_BYTES:
            self._forget()
        self._remembered[block] = found
        self._remembered_bytes += size_bytes

    def _forget(self) -> None:
        self._remembered.clear()
        self._remembered_bytes = 0

    def _table(self) -> tuple[int, object, int]:
        """Return what differs once the table was changed: a new entry is a new object, and the first."""
        table = self._decoder.header_table
        entries = table.dynamic_entries
        return table.maxsize, entries[0] if entries else None, len(entries)


def list_bytes(headers: Headers) -> int:
    """Return the size of a header list as HTTP/2 counts it."""
    return sum(len(name) + len(value) + _ENTRY_BYTES for name, value in headers)


def write_block(headers: Iterable[tuple[str, str]]) -> bytes:
    """Return a header block that neither uses nor changes the dynamic table, so that it is good at any time."""
    return hpack.Encoder().encode([(name, value, True) for name, value in headers])

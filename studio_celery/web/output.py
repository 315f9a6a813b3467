"""An experiment's output as a page needs it: the end of it at first, then what was added, or all of it, raw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from studio_celery.client import Client
from studio_celery.web.screen import show

#: Bytes of output that a page holds when it is opened.
TAIL = 256 * 1024

#: Bytes of output after which an answer ends; there is more at once.
PIECE = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class Output:
    """Text of one attempt's output, and where to go on."""

    #: 0 while there was none.
    attempt: int
    #: First byte that `text` does not cover.
    offset: int
    text: str = ""
    #: The unfinished last line: shown until the next look, which tells it again.
    line: str = ""
    #: There is more already.
    more: bool = False
    #: Nothing will ever follow.
    ended: bool = False
    #: Bytes before the text, which only the raw log shows.
    skipped: int = 0


def tail(client: Client, experiment_id: str) -> Output:
    """The end of the latest attempt's output, from the beginning of a line on."""
    latest, size = client.log_end(experiment_id)
    if not latest:
        return Output(attempt=0, offset=0)
    begin = max(0, size - TAIL)
    data, over = _read(client, experiment_id, latest, begin, TAIL + PIECE)
    skip = _line_start(data) if begin else 0
    screen = show(data[skip:], over)
    return Output(
        attempt=latest,
        offset=begin + skip + screen.used,
        text=screen.text,
        line=screen.line,
        skipped=begin + skip,
    )


def following(client: Client, experiment_id: str, attempt: int, offset: int) -> Output:
    """What the latest attempt wrote from byte `offset` on; all of it if `attempt` is not the latest."""
    latest = client.log(experiment_id, offset)
    if latest.attempt != attempt:
        offset = 0
    elif not latest.data:
        return Output(attempt=attempt, offset=offset, ended=latest.complete)
    data, over = _read(client, experiment_id, latest.attempt, offset, PIECE)
    screen = show(data, over)
    return Output(
        attempt=latest.attempt,
        offset=offset + screen.used,
        text=screen.text,
        line=screen.line,
        more=len(data) >= PIECE,
    )


def raw(client: Client, experiment_id: str, attempt: int | None) -> Iterator[bytes]:
    """All bytes that are stored by now, of the given attempt or else the latest. Errors come before the first byte."""
    pieces = client.output(experiment_id, attempt)
    return chain([next(pieces, b"")], pieces)


def _read(client: Client, experiment_id: str, attempt: int, offset: int, limit: int) -> tuple[bytes, bool]:
    """About `limit` bytes; whether nothing will follow them. Pieces are joined: a character may lie across two."""
    data = bytearray()
    while len(data) < limit:
        part = client.log(experiment_id, offset + len(data), attempt, limit)
        data += part.data
        if not part.data:
            return bytes(data), part.complete
    return bytes(data), False


def _line_start(data: bytes) -> int:
    """Where the first whole line begins; without one, the first whole character."""
    newline = data.find(b"\n")
    if 0 <= newline < len(data) - 1:
        return newline + 1
    return next((i for i, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 0)

"""A script's bytes as a terminal would show them: text, without control sequences, with overwritten lines overwritten.

Bytes that are no UTF-8 become U+FFFD. A reader comes back with the byte at which the unfinished last line begins, and
gets that line again, longer: so nothing that was cut between two looks (a character, a colour, a carriage return)
needs to be remembered by anybody.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

#: An unfinished line longer than this, bytes, is not sent again as a whole at each look.
LINE_LIMIT = 4096

#: Longest control sequence that is looked for at the end of a piece, bytes.
_SEQUENCE_LIMIT = 64

_TOKENS = re.compile(
    r"\x1b\[(?P<erase>[0-2]?)K"
    r"|\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[PX^_][^\x1b]*\x1b\\|[ -/]+[0-~]|[0-Z\\^-~])"
    r"|(?P<move>[\r\b])"
    r"|(?P<text>[^\x00-\x08\x0a-\x1f\x7f-\x9f]+)"
    r"|[\x00-\x1f\x7f-\x9f]"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Screen:
    """What a piece of output looks like."""

    #: Text that stays.
    text: str
    #: The unfinished last line as it looks now.
    line: str
    #: Bytes that `text` is of: the next piece begins after them.
    used: int


def show(data: bytes, ended: bool) -> Screen:
    """The piece as text; `ended` if nothing will ever follow it."""
    if ended:
        return Screen(render(data), "", len(data))
    end = data.rfind(b"\n") + 1
    rest = data[end:]
    if len(rest) <= LINE_LIMIT:
        return Screen(render(data[:end]), render(rest), end)
    overwritten = rest.rstrip(b"\r").rfind(b"\r")
    if overwritten > 0:
        rest = rest[overwritten:]
        if len(rest) <= LINE_LIMIT:
            return Screen(render(data[:end]), render(rest), len(data) - len(rest))
    whole = _whole(rest)
    return Screen(render(data[:end]) + render(rest[:whole]), render(rest[whole:]), len(data) - len(rest) + whole)


def render(data: bytes) -> str:
    """Text of whole lines."""
    return "\n".join(_render_line(line) for line in data.decode("utf-8", "replace").split("\n"))


def _render_line(line: str) -> str:
    if not _CONTROL.search(line):
        return line
    cells: list[str] = []
    column = 0
    for token in _TOKENS.finditer(line):
        if text := token["text"]:
            cells[column : column + len(text)] = text
            column += len(text)
        elif move := token["move"]:
            column = 0 if move == "\r" else max(0, column - 1)
        elif token["erase"] in ("", "0"):
            del cells[column:]
        elif token["erase"] in ("1", "2"):
            cells[:column] = " " * column
            del cells[column if token["erase"] == "2" else len(cells) :]
    return "".join(cells)


def _whole(data: bytes) -> int:
    """Length of `data` without a character or a control sequence that may be cut at its end."""
    escape = data.rfind(b"\x1b", len(data) - _SEQUENCE_LIMIT)
    data = data[:escape] if escape > 0 else data
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return len(data) - len(decoder.getstate()[0])

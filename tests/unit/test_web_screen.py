"""Bytes as a terminal shows them, however they were cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio_celery.web.screen import LINE_LIMIT, render, show

#: Pieces of output that are hard to cut.
HARD = st.sampled_from(
    [
        b"a",
        b"bc",
        b"\n",
        b"\r",
        b"\r\n",
        b"\b",
        b"\t",
        "é漢🙂".encode(),
        b"\xff",
        b"\xe6\xbc",
        b"\x1b[31m",
        b"\x1b[K",
        b"\x1b",
    ]
)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"one\ntwo\n", "one\ntwo\n"),
        (b"one\r\ntwo\r\n", "one\ntwo\n"),
        (b" 10%\r 20%\r100%\n", "100%\n"),
        (b"longer\rab\n", "abnger\n"),
        (b"longer\r\x1b[Kab\n", "ab\n"),
        (b"longer\x1b[2K\rab\n", "ab    \n"),
        (b"12345\b\b\bx\n", "12x45\n"),
        (b"\x1b[1;31mred\x1b[0m plain\n", "red plain\n"),
        (b"\x1b]0;title\x07text \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\n", "text link\n"),
        (b"bell\x07 null\x00 \x1b(Bset \x1b=\n", "bell null set \n"),
        (b"\xff\xfe latin \xe9t\xe9\n", "\ufffd\ufffd latin \ufffdt\ufffd\n"),
        ("Ж 漢字 🙂\n".encode(), "Ж 漢字 🙂\n"),
        (b"a\tb\n", "a\tb\n"),
    ],
)
def test_output_looks_as_in_a_terminal(data: bytes, shown: str) -> None:
    assert render(data) == shown


def test_an_unfinished_line_is_shown_but_told_again() -> None:
    screen = show(b"done\nhalf", ended=False)
    assert (screen.text, screen.line, screen.used) == ("done\n", "half", 5)


def test_at_the_end_nothing_is_unfinished() -> None:
    screen = show(b"done\nhalf\xe6", ended=True)
    assert (screen.text, screen.line, screen.used) == ("done\nhalf\ufffd", "", 10)


@given(st.lists(HARD, max_size=40), st.lists(st.integers(0, 100), max_size=12))
def test_where_output_is_cut_does_not_change_what_is_shown(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    offset, text = 0, ""
    for stored in sorted(min(cut, len(data)) for cut in cuts):
        screen = show(data[offset : max(offset, stored)], ended=False)
        text, offset = text + screen.text, offset + screen.used
    assert text + show(data[offset:], ended=True).text == render(data)


def test_a_progress_bar_of_hours_is_not_sent_again_and_again() -> None:
    bar = b"".join(b"\r%5d/10000" % i for i in range(10000))
    screen = show(b"start\n" + bar, ended=False)
    assert screen.line == " 9999/10000"
    assert len(bar) + 6 - screen.used <= 12


@pytest.mark.parametrize("end", ["漢".encode()[:2], b"\x1b[3", b"\x1b"])
def test_a_long_line_is_cut_where_nothing_breaks(end: bytes) -> None:
    data = b"x" * (LINE_LIMIT + 10) + end
    screen = show(data, ended=False)
    assert screen.text == "x" * (LINE_LIMIT + 10)
    assert data[screen.used :] == end

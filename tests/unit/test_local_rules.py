"""Names, ranges and ack ids: tables of what is taken and what is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transports.local import ackids, rules
from transports.local.ackids import AckId
from transports.local.errors import InvalidArgumentError


@pytest.mark.parametrize("name", ["abc", "A-_.~+%9", "a" * 255])
def test_a_good_name_is_taken(name: str) -> None:
    rules.check_topic_name(f"projects/p/topics/{name}")
    rules.check_subscription_name(f"projects/p/subscriptions/{name}")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "abc",
        "projects/p/topics/",
        "projects/p/topics/ab",
        f"projects/p/topics/{'a' * 256}",
        "projects/p/topics/1abc",
        "projects/p/topics/googabc",
        "projects/p/topics/a bc",
        "projects/p/topics/abc\n",
        "projects/p/topics/äbc",
        "projects/p/topics/abc/topics/abc",
        "projects//topics/abc",
        "projects/p/q/topics/abc",
        "projects/p/subscriptions/abc",
    ],
)
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        rules.check_topic_name(name)


@pytest.mark.parametrize("seconds", [9, 601, -1])
def test_an_ack_deadline_out_of_range_is_refused(seconds: int) -> None:
    with pytest.raises(InvalidArgumentError):
        rules.check_ack_deadline(seconds)


@pytest.mark.parametrize("seconds", [0, 1, 600])
def test_an_extension_within_range_is_taken(seconds: int) -> None:
    rules.check_extension(seconds)


@pytest.mark.parametrize("seconds", [599, 31 * 86400 + 1])
def test_a_retention_out_of_range_is_refused(seconds: int) -> None:
    with pytest.raises(InvalidArgumentError):
        rules.check_retention(seconds)


def test_an_expiration_is_a_day_or_never() -> None:
    rules.check_expiration(None)
    rules.check_expiration(86400)
    with pytest.raises(InvalidArgumentError):
        rules.check_expiration(86399)


numbers = st.integers(0, 2**59)


@given(st.lists(st.builds(AckId, numbers, numbers, numbers)))
def test_ack_ids_are_read_as_they_were_written(ack_ids: list[AckId]) -> None:
    assert ackids.parse([str(each) for each in ack_ids]) == ack_ids


#: Characters of an ack id.
_ALL = 32


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A" * (_ALL - 1),
        "A" * (_ALL + 1),
        "A" * (_ALL - 1) + "=",
        "A" * (_ALL - 1) + "-",
        "A" * (_ALL - 1) + "ä",
        "A" * (_ALL - 1) + "\n",
        "A" * _ALL + "\n",
        "A" * (_ALL - 2) + " A",
        "projects/p:1",
    ],
)
def test_what_is_no_ack_id_is_refused(text: str) -> None:
    good = str(AckId(1, 2, 3))
    for texts in ([text], [good, text], [text, good], [good, text, good], [text, text]):
        with pytest.raises(InvalidArgumentError, match=re.escape(repr(text))):
            ackids.parse(texts)

"""What is remembered of a bundle's deliveries: it is read as it was written, in its place, and up to its limits."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transports.local.storage.records import Record, Records

FIRST, LAST = 1001, 1128
ids = st.integers(FIRST, LAST)
#: A token is the number of a start times 2**40, and a count.
TOKEN = (1 << 62) - 1
#: The last microsecond of the year 9999.
END_OF_TIME_US = 253_402_300_799_999_999
records_of = st.builds(Record, st.integers(0, TOKEN), st.integers(0, END_OF_TIME_US), st.integers(0, (1 << 32) - 1))


@given(st.dictionaries(ids, records_of))
def test_what_was_written_is_read_from_what_was_stored(written: dict[int, Record]) -> None:
    records = Records(FIRST, LAST, None)
    for each, record in written.items():
        records[each] = record
    stored = Records(FIRST, LAST, bytes(records.stored))
    expected = {each: written.get(each, Record()) for each in range(FIRST, LAST + 1)}
    assert {each: stored[each] for each in range(FIRST, LAST + 1)} == expected
    assert list(stored) == list(expected.values())


@given(st.dictionaries(ids, records_of), st.sets(ids))
def test_what_is_forgotten_was_never_delivered_and_the_rest_stays(written: dict[int, Record], gone: set[int]) -> None:
    records = Records(FIRST, LAST, None)
    for each, record in written.items():
        records[each] = record
    records.forget(gone)
    for each in range(FIRST, LAST + 1):
        assert records[each] == (Record() if each in gone else written.get(each, Record()))


def test_messages_that_were_never_delivered_have_no_token_no_lease_and_no_attempts() -> None:
    assert list(Records(7, 9, None)) == [Record(0, 0, 0)] * 3


def test_what_is_changed_leaves_alone_what_it_was_read_from() -> None:
    stored = bytes(Records(1, 2, None).stored)
    records = Records(1, 2, stored)
    records[1] = Record(1, 2, 3)
    assert Records(1, 2, stored)[1] == Record()


def test_a_full_bundle_of_records_fits_in_a_page_of_the_file() -> None:
    assert len(Records(FIRST, LAST, None).stored) < 4096


@pytest.mark.parametrize("record", [Record(token=1 << 63), Record(leased_us=1 << 63), Record(attempts=1 << 32)])
def test_a_number_that_has_no_room_is_refused_and_changes_nothing(record: Record) -> None:
    records = Records(1, 2, None)
    with pytest.raises(struct.error):
        records[1] = record
    assert list(records) == [Record(), Record()]

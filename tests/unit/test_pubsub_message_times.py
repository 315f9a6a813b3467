"""What a message says about when it may be delivered."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transports.pubsub.receiving import schedule

JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())
NOON = datetime(2030, 5, 1, 12, tzinfo=UTC)


def payload(*, headers: Any = None, **properties: Any) -> dict[str, Any]:
    return {"body": "", "headers": headers, "properties": properties}


@pytest.mark.parametrize(
    "written",
    [
        "2030-05-01T12:00:00+00:00",
        "2030-05-01T12:00:00Z",
        "2030-05-01T12:00:00",
        "2030-05-01T14:00:00+02:00",
        NOON,
        NOON.astimezone(timezone(timedelta(hours=-7))),
    ],
)
def test_an_eta_is_the_same_moment_in_every_zone(written: Any) -> None:
    assert schedule.eta(payload(headers={"eta": written})) == NOON.timestamp()


@pytest.mark.parametrize("headers", [None, {}, {"eta": None}, {"eta": ""}, {"eta": "soon"}, {"eta": 5}])
def test_what_is_no_eta_is_none(headers: Any) -> None:
    assert schedule.eta(payload(headers=headers)) is None


@given(JSON)
def test_no_eta_is_strange_enough_to_raise(written: Any) -> None:
    found = schedule.eta(payload(headers={"eta": written}))
    assert found is None or isinstance(found, float)


@pytest.mark.parametrize("info", [{}, {"delivery_info": None}, {"delivery_info": {"exchange": "e"}}])
def test_an_eta_that_is_due_moves_to_the_delivery_info(info: dict[str, Any]) -> None:
    due = payload(headers={"eta": "2030-05-01T12:00:00Z", "id": "1"}, **info)
    schedule.deliver_now(due)
    assert due["headers"] == {"eta": None, "id": "1"}
    assert due["properties"]["delivery_info"] == {**(info.get("delivery_info") or {}), "eta": "2030-05-01T12:00:00Z"}


@pytest.mark.parametrize(
    ("expiration", "of_queue", "found"),
    [
        (None, None, None),
        ("", None, None),
        ("1500", None, 1.5),
        (1500, None, 1.5),
        ("0", None, 0.0),
        (None, 7.0, 7.0),
        ("1500", 7.0, 1.5),
        ("9000", 7.0, 7.0),
        ("soon", 7.0, 7.0),
        ({}, None, None),
    ],
)
def test_the_shorter_time_to_live_counts(expiration: Any, of_queue: float | None, found: float | None) -> None:
    assert schedule.time_to_live_seconds(payload(expiration=expiration), of_queue) == found


@given(JSON)
def test_no_expiration_is_strange_enough_to_raise(expiration: Any) -> None:
    schedule.time_to_live_seconds(payload(expiration=expiration), None)

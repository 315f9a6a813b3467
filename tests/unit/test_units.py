"""People's units."""

from __future__ import annotations

import pytest

from studio_celery.errors import UsageError
from studio_celery.units import format_bytes, format_duration, parse_bytes, parse_duration


@pytest.mark.parametrize(
    ("text", "count"),
    [("8g", 8 * 2**30), ("512 MiB", 512 * 2**20), ("1000000", 10**6), ("1.5k", 1536), ("2gb", 2 * 10**9), ("10 B", 10)],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    ("text", "seconds"), [("5h", 18000), ("48h2m10s", 172930), ("90", 90), ("1.5d", 129600), ("0.5s", 0.5)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5 parsecs", "-3s", "0", "h5", "5h soon"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "much", "5q", "-1g"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (5046586573, "4.7 GiB"), (2**20, "1 MiB"), (3 * 2**29, "1.5 GiB")]
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.52, "0.5s"), (18000, "5h"), (90, "1m 30s"), (183600 + 59, "2d 3h"), (61, "1m 1s")]
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text

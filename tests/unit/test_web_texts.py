"""Values of a record as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Self

import pytest

from studio_celery.web import texts

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Clock(datetime):
    """Stands still at `NOW`."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromtimestamp(NOW.timestamp(), tz)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "datetime", Clock)


def at(seconds_ago: float) -> str:
    return (NOW - timedelta(seconds=seconds_ago)).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "just now"), (-60, "just now"), (5.5, "5s ago"), (200.5, "3m 20s ago")]
)
def test_times_are_relative(seconds: float, text: str) -> None:
    assert texts.ago(at(seconds)) == text


def test_what_is_no_time_is_shown_as_it_stands() -> None:
    assert (texts.ago("soon"), texts.exact("soon"), texts.ago(None)) == ("soon", "soon", "")


def test_exact_times_are_utc() -> None:
    assert texts.exact("2026-05-01T14:00:03.5+02:00") == "2026-05-01 12:00:03 UTC"


def test_a_duration_is_between_start_and_end() -> None:
    times = {"started_at": "2026-05-01T12:00:00Z", "finished_at": "2026-05-01T14:00:30Z"}
    assert texts.duration(times) == "2h 30s"


def test_there_is_no_duration_before_the_start() -> None:
    assert texts.duration({"started_at": None, "finished_at": None}) == ""


def test_a_clock_that_runs_ahead_gives_no_negative_duration() -> None:
    assert texts.duration({"started_at": at(-100), "finished_at": None}) == "0.0s"


def test_arguments_are_quoted_as_for_a_shell() -> None:
    assert texts.command({"script": "a b.py", "args": ["$x", ""]}) == "'a b.py' '$x' ''"


def test_resources_name_only_what_was_asked_for() -> None:
    asked = {"gpus": 1, "cpus": 1.5, "memory_bytes": 2**30, "shm_bytes": None}
    assert texts.resources({"resources": asked}) == "1 card, 1.5 CPUs, 1 GiB memory"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("model/a/weights.pt", "weights.pt"),
        ("output/漢字 ü.txt", "漢字 ü.txt"),
        ('output/a"b\\c\r\nd', "a_b_c__d"),
        ("output/..", "artifact"),
        ("output/.bashrc", "bashrc"),
        ("output/txt.\u202eexe", "txt._exe"),
        ("output/" + "x" * 500, "x" * 200),
    ],
)
def test_a_file_is_saved_under_a_harmless_name(key: str, name: str) -> None:
    assert texts.file_name(key) == name

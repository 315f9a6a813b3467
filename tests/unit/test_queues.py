"""What queues are called where access is given, and what is said where no sizes can be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio_celery.errors import BrokerError, SettingsError
from studio_celery.queues import list_queues, resources_of
from studio_celery.settings import Settings


@pytest.mark.parametrize(
    ("queue", "expected"),
    [
        ("gpu", ["celery-gpu", "celery-priority~*~gpu", "celery-dead~gpu"]),
        ("gpu*", ["celery-gpu*", "celery-priority~*~gpu*", "celery-dead~gpu*"]),
        ("a b", ["celery-a%20b", "celery-priority~*~a%20b", "celery-dead~a%20b"]),
    ],
)
def test_a_queue_is_reached_by_these(queue: str, expected: list[str]) -> None:
    assert resources_of(queue) == expected


def test_what_cannot_be_a_queue_is_refused() -> None:
    with pytest.raises(SettingsError, match="cannot be a queue's name"):
        resources_of("x" * 300)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://host/0", "is not Pub/Sub but redis"),
        ("pubsub://host/project", "not HOST:PORT"),
    ],
)
def test_where_no_sizes_can_be_had_the_error_says_why(tmp_path: Path, url: str, said: str) -> None:
    settings = Settings(home=tmp_path, broker_url=url, store="gs://bucket")
    with pytest.raises((BrokerError, SettingsError), match=said):
        list_queues(settings, environ={})

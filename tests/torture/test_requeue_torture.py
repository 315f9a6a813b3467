"""The broker's data is deleted under 100 experiments that wait and 3 that run: see `tests/acceptance/test_requeue`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from lost_broker import LostBroker
from processes import Studio


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    studio = Studio(tmp_path, runtime="process", gpus="none")
    yield studio
    studio.close()


def test_everything_goes_on_after_the_broker_lost_its_data_under_many(studio: Studio) -> None:
    lost = LostBroker(studio, running=3)
    lost.fill(100)
    lost.lose()
    assert sorted(lost.requeue().stdout.split()) == sorted([*lost.running, *lost.waiting])
    assert sorted(lost.requeue("--queue", "q").stdout.split()) == sorted([*lost.running, *lost.waiting])
    lost.end(600)

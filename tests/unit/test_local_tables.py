"""Who needs which message: what stays on disk, what is swept, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from local_tables import SUBSCRIPTION, add, pending, stored, waiting

from transports.local.storage.bundles import bits_by_bundle
from transports.local.storage.database import Database
from transports.local.storage.needs import Replay


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "broker.db")
    yield database
    database.close()


def test_a_payload_stays_until_nobody_needs_it(database: Database) -> None:
    with database.transaction() as tables:
        add(tables, 1, backlogs=[1, 2], kept=[3])
        tables.settle(1, bits_by_bundle(pending(1)), keep=False, snapshot=None)
        tables.settle(2, bits_by_bundle(pending(1)), keep=False, snapshot=None)
    assert stored(database) == [1]
    with database.transaction() as tables:
        assert tables.sweep_kept(3, until=9, at_most=9) == 1
    assert stored(database) == []


def test_what_a_deleted_subscription_left_is_swept_in_pieces(database: Database) -> None:
    with database.transaction() as tables:
        tables.save_subscription(1, SUBSCRIPTION)
        add(tables, 1, backlogs=[1, 2])
        add(tables, 2, 3, backlogs=[1])
        tables.condemn(1)
    assert (dict(database.contents().subscriptions), database.contents().condemned) == ({}, [1])
    with database.transaction() as tables:
        assert [tables.sweep_backlog(1, until=9, keep=False, at_most=2) for _ in range(3)] == [2, 1, 0]
        tables.absolve(1)
    assert stored(database) == [1]
    assert database.contents().condemned == []


@pytest.mark.parametrize(("published_us", "last"), [(0, 9), (1000, 9), (1001, 10), (1250, 12), (2000, 19), (9999, 30)])
def test_the_last_message_before_a_time_is_found(database: Database, published_us: int, last: int) -> None:
    with database.transaction() as tables:
        add(tables, *range(10, 31), backlogs=[1])
        tables.settle(1, bits_by_bundle(pending(15, 16)), keep=False, snapshot=None)
    assert database.last_before(published_us) == last


class TestReplaying:
    @pytest.fixture(autouse=True)
    def acknowledged(self, database: Database) -> None:
        """Have subscription 1 keep messages 1 to 5, of which it acknowledged all but 3."""
        with database.transaction() as tables:
            tables.save_subscription(1, SUBSCRIPTION)
            add(tables, 1, 2, 3, 4, 5, backlogs=[1], kept=[9])
            tables.settle(1, bits_by_bundle(pending(1, 2, 4, 5)), keep=True, snapshot=None)

    def replay(self, database: Database, replay: Replay, at_most: int = 9) -> list[int]:
        """Bring back what there is, in pieces."""
        after: int | None = 0
        while after is not None:
            with database.transaction() as tables:
                after = tables.bring_back(replay, after=after, at_most=at_most)
        return waiting(database, 1)

    @pytest.mark.parametrize("at_most", [1, 2, 9])
    def test_what_was_acknowledged_comes_back(self, database: Database, at_most: int) -> None:
        assert self.replay(database, Replay(1, 1, 9, 1, False, None), at_most) == [2, 3, 4, 5]
        with database.transaction() as tables:
            assert tables.sweep_kept(1, until=9, at_most=9) == 1

    @pytest.mark.parametrize("at_most", [1, 2, 9])
    def test_only_what_passes_the_filter_comes_back(self, database: Database, at_most: int) -> None:
        replay = Replay(1, 0, 9, 9, False, lambda payload: len(payload) > 4)
        assert self.replay(database, replay, at_most) == [3, 5]

    @pytest.mark.parametrize("at_most", [1, 2, 9])
    def test_going_back_to_a_snapshot_acknowledges_the_rest(self, database: Database, at_most: int) -> None:
        with database.transaction() as tables:
            assert tables.take_snapshot(8, 1, after=0, until=9, at_most=at_most) == 3
            assert tables.take_snapshot(8, 1, after=3, until=9, at_most=at_most) is None
            add(tables, 6, backlogs=[1], kept=[8])
            add(tables, 7, backlogs=[1])
            tables.settle(1, bits_by_bundle(pending(3)), keep=False, snapshot=None)
        assert self.replay(database, Replay(1, 0, 9, 8, False, None), at_most) == [3, 6, 7]
        after: int | None = 0
        while after is not None:
            with database.transaction() as tables:
                after = tables.drop_others(1, 8, after=after, until=9, at_most=at_most, keep=False)
        assert waiting(database, 1) == [3, 6]
        assert 7 not in stored(database)

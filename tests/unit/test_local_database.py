"""What lies on disk: through SQLite itself, and across openings."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_tables import SNAPSHOT, SUBSCRIPTION, TOPIC, add, bundles, messages, pending

from transports.local.errors import DataUnusableError
from transports.local.model import Draft, Pending
from transports.local.storage.bundles import bundled
from transports.local.storage.database import Database, StorageError
from transports.local.storage.tables import SCHEMA_VERSION


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = Database(path)
    yield database
    database.close()


def test_an_empty_file_has_nothing(database: Database) -> None:
    contents = database.contents()
    assert (dict(contents.topics), dict(contents.subscriptions), dict(contents.counters)) == ({}, {}, {})


def test_what_was_committed_is_there_when_opened_again(path: Path) -> None:
    database = Database(path)
    with database.transaction() as tables:
        tables.save_topic(3, TOPIC)
        tables.save_subscription(7, SUBSCRIPTION)
        tables.save_snapshot(8, SNAPSHOT)
        add(tables, 1, 2, backlogs=[7])
        tables.note_deliveries(7, [Pending(2, 200, 2, "", 99, 4, 2)], 5_000_000)
        tables.note_extensions(7, [(Pending(2, 200, 2, "", 99, 4, 2), 6_000_000)])
        tables.save_counter("starts", 3)
    database.close()
    again = Database(path)
    contents = again.contents()
    assert contents.topics == {3: TOPIC}
    assert contents.subscriptions[7].settings == SUBSCRIPTION
    assert contents.snapshots == {8: SNAPSHOT}
    assert contents.counters == {"starts": 3}
    assert again.page(7, after=0, until=9, at_most=9) == [
        Pending(1, 100, 1, bundle=1),
        Pending(2, 200, 2, "", 99, 4, 2),
    ]
    assert again.leased(7, 0) == [(Pending(2, 200, 2, "", 99, 4, 2), 6_000_000)]
    assert again.messages(7, pending(2, 1, 5)) == messages(1, 2)
    again.close()


def test_a_lease_that_ended_is_not_taken_up(database: Database) -> None:
    with database.transaction() as tables:
        add(tables, 1, backlogs=[7])
        tables.note_deliveries(7, [Pending(1, 100, 1, "", 99, 1, 1)], 5_000_000)
        tables.note_returns(7, [Pending(1, 100, 1, "", 99, 1, 1)])
    assert database.leased(7, 0) == []
    assert database.page(7, after=0, until=9, at_most=9) == [Pending(1, 100, 1, "", 99, 1, 1)]


def test_a_transaction_that_fails_changes_nothing(database: Database) -> None:
    def fail() -> None:
        with database.transaction() as tables:
            tables.save_topic(3, TOPIC)
            tables.add_bundles(bundles(1, 1))

    with pytest.raises(StorageError, match="cannot store"):
        fail()
    assert dict(database.contents().topics) == {}


def test_a_key_is_read_in_its_order(database: Database) -> None:
    with database.transaction() as tables:
        add(tables, 1, 3, 5, backlogs=[1], key="a")
        add(tables, 2, 4, backlogs=[1], key="b")
    found = database.page_of_key(1, "a", since=2, until=9, at_most=9)
    assert [(each.message_id, each.ordering_key) for each in found] == [(3, "a"), (5, "a")]


def test_more_messages_than_fit_into_one_select_are_read(database: Database) -> None:
    many = messages(*range(1, 1201))
    with database.transaction() as tables:
        add(tables, *range(1, 1201), backlogs=[1])
    assert database.messages(1, pending(*range(1, 1201))) == many


def test_commits_are_synced_in_wal_mode(database: Database) -> None:
    for connection in (database._reader, database._writer):
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


class TestDamage:
    @pytest.mark.parametrize("content", [b"this is no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 8000])
    def test_a_damaged_file_is_set_aside_and_named(
        self, path: Path, content: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        path.write_bytes(content)
        with caplog.at_level(logging.ERROR):
            database = Database(path)
        assert list(database.contents().topics) == []
        database.close()
        (aside,) = path.parent.glob("broker.db.damaged-*")
        assert aside.read_bytes() == content
        assert aside.name in caplog.text

    def test_damage_in_the_middle_is_found(self, path: Path) -> None:
        database = Database(path)
        with database.transaction() as tables:
            add(tables, *range(1, 300), backlogs=[1])
        database.close()
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 8192))
        Database(path).close()
        aside = sorted(path.parent.glob("broker.db.damaged-*"))
        assert [each.name[len(aside[0].name) :] for each in aside] == ["", "-redo-1"]

    def test_a_file_of_a_newer_broker_is_refused_and_left_alone(self, path: Path) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
        with pytest.raises(DataUnusableError, match="newer"):
            Database(path)
        assert list(path.parent.glob("*.damaged-*")) == []

    def test_a_file_of_an_older_broker_is_refused_and_left_alone(self, path: Path) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION - 1}")
        connection.close()
        with pytest.raises(DataUnusableError, match="older"):
            Database(path)
        assert path.exists()

    def test_a_path_that_cannot_be_a_file_is_refused(self, path: Path) -> None:
        path.mkdir()
        with pytest.raises(DataUnusableError):
            Database(path)


class TestLongBacklogs:
    """What is asked often takes no longer for a long backlog; SQLite says how many steps it made."""

    @pytest.fixture
    def database(self, path: Path) -> Iterator[Database]:
        database = Database(path)
        with database.transaction() as tables:
            tables.save_subscription(1, SUBSCRIPTION)
            stored = [bundle for each in range(1, 5001) for bundle in bundled(each, each * 100, [Draft(b"x")])]
            tables.add_bundles(stored)
            tables.add_to_backlogs((1, each.whole, "") for each in stored)
        yield database
        database.close()

    @pytest.mark.parametrize(
        "ask",
        [
            lambda database: database.last_before(250_000),
            lambda database: database.leased(1, 0),
            lambda database: database.oldest_waiting_us(1, 0),
            lambda database: database.page(1, after=2500, until=5000, at_most=1),
            lambda database: database.messages(1, pending(2500)),
            lambda database: database.newest_published_us(),
        ],
    )
    def test_what_is_asked_often_looks_at_little(self, database: Database, ask: Callable[[Database], object]) -> None:
        steps = _count_steps(database._reader)
        ask(database)
        assert len(steps) < 20

    def test_ending_leases_looks_at_what_was_delivered(self, database: Database) -> None:
        steps = _count_steps(database._writer)
        with database.transaction() as tables:
            tables.note_deliveries(1, pending(7), 10**6)
            tables.end_leases(1)
        assert len(steps) < 20
        assert database.leased(1, 0) == []


def _count_steps(connection: sqlite3.Connection) -> list[None]:
    """Return a list that gets an item for every hundred instructions from now on."""
    steps: list[None] = []
    connection.set_progress_handler(lambda: steps.append(None), 100)
    return steps

"""What lies on disk: through SQLite itself, and across openings."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from transports.local.database import Database, StorageError, Tables
from transports.local.errors import DataInUseError, DataUnusableError
from transports.local.lockfile import NAME, locked
from transports.local.model import Pending, StoredMessage, Subscription, Topic
from transports.local.writer import Writer

TOPIC = Topic("projects/p/topics/topic", {"a": "b"})
SUBSCRIPTION = Subscription("projects/p/subscriptions/one", TOPIC.name, 10, 600, None, True, {"c": "d"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = Database(path)
    yield database
    database.close()


def messages(*ids: int) -> list[StoredMessage]:
    return [StoredMessage(each, each * 100, b"x" * each) for each in ids]


def test_an_empty_file_has_nothing(database: Database) -> None:
    contents = database.contents()
    assert (list(contents.topics), dict(contents.subscriptions), dict(contents.counters)) == ([], {}, {})


def test_what_was_committed_is_there_when_opened_again(path: Path) -> None:
    database = Database(path)
    with database.transaction() as tables:
        tables.save_topic(TOPIC)
        tables.save_subscription(7, SUBSCRIPTION)
        tables.add_messages(messages(1, 2), [7])
        tables.note_tokens(7, [Pending(2, 200, 2, token=99)])
        tables.save_counter("starts", 3)
    database.close()
    again = Database(path)
    contents = again.contents()
    assert list(contents.topics) == [TOPIC]
    assert contents.subscriptions == {7: SUBSCRIPTION}
    assert contents.pending == {7: [Pending(1, 100, 1, 0), Pending(2, 200, 2, 99)]}
    assert contents.counters == {"starts": 3}
    assert again.messages([2, 1, 5]) == messages(1, 2)
    again.close()


def test_a_transaction_that_fails_changes_nothing(database: Database) -> None:
    def fail() -> None:
        with database.transaction() as tables:
            tables.save_topic(TOPIC)
            tables.add_messages(messages(1, 1), [])

    with pytest.raises(StorageError, match="cannot store"):
        fail()
    assert list(database.contents().topics) == []


def test_a_payload_stays_until_the_last_subscription_settles_it(database: Database) -> None:
    with database.transaction() as tables:
        tables.add_messages(messages(1), [1, 2])
        tables.settle(1, [1])
    assert database.messages([1]) == messages(1)
    with database.transaction() as tables:
        tables.settle(2, [1])
    assert database.messages([1]) == []


def test_removing_a_subscription_removes_what_only_it_waited_for(database: Database) -> None:
    with database.transaction() as tables:
        tables.save_subscription(1, SUBSCRIPTION)
        tables.add_messages(messages(1), [1, 2])
        tables.add_messages(messages(2), [1])
        tables.remove_subscription(1)
    assert database.messages([1, 2]) == messages(1)
    assert database.contents().subscriptions == {}


def test_more_messages_than_fit_into_one_select_are_read(database: Database) -> None:
    many = messages(*range(1, 1201))
    with database.transaction() as tables:
        tables.add_messages(many, [1])
    assert database.messages([each.id for each in many]) == many


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
            tables.add_messages(messages(*range(1, 300)), [1])
        database.close()
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (path.stat().st_size - 8192))
        Database(path).close()
        assert len(list(path.parent.glob("broker.db.damaged-*"))) == 1

    def test_a_file_of_a_newer_broker_is_refused_and_left_alone(self, path: Path) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
        with pytest.raises(DataUnusableError, match="newer"):
            Database(path)
        assert list(path.parent.glob("*.damaged-*")) == []

    def test_a_path_that_cannot_be_a_file_is_refused(self, path: Path) -> None:
        path.mkdir()
        with pytest.raises(DataUnusableError):
            Database(path)


class TestWriter:
    @pytest.fixture
    def writer(self, database: Database) -> Iterator[Writer]:
        writer = Writer(database)
        writer.start()
        yield writer
        writer.stop()

    def test_a_change_is_on_disk_when_its_future_is_done(self, writer: Writer, database: Database) -> None:
        writer.submit(lambda tables: tables.save_topic(TOPIC)).result(30)
        assert list(database.contents().topics) == [TOPIC]

    def test_changes_that_wait_share_a_transaction(self, writer: Writer, database: Database) -> None:
        blocked, go_on = threading.Event(), threading.Event()
        seen: list[Tables] = []

        def block(tables: Tables) -> None:
            blocked.set()
            assert go_on.wait(30)

        writer.submit(block)
        assert blocked.wait(30)
        futures = [writer.submit(seen.append) for _ in range(10)]
        go_on.set()
        for future in futures:
            future.result(30)
        assert len(set(map(id, seen))) == 1

    def test_a_change_that_fails_does_not_stop_the_writer(self, writer: Writer, database: Database) -> None:
        writer.submit(lambda tables: tables.add_messages(messages(1), [])).result(30)
        with pytest.raises(StorageError):
            writer.submit(lambda tables: tables.add_messages(messages(1), [])).result(30)
        with pytest.raises(ZeroDivisionError):
            writer.submit(lambda tables: print(1 / 0)).result(30)
        writer.submit(lambda tables: tables.save_topic(TOPIC)).result(30)
        assert list(database.contents().topics) == [TOPIC]

    def test_stopping_writes_what_was_submitted(self, database: Database) -> None:
        writer = Writer(database)
        futures = [writer.submit(partial(Tables.save_counter, name=str(n), value=1)) for n in range(50)]
        writer.start()
        writer.stop()
        assert all(future.done() for future in futures)
        assert len(database.contents().counters) == 50


class TestLock:
    def test_a_second_holder_is_refused_and_a_later_one_is_not(self, tmp_path: Path) -> None:
        with locked(tmp_path / "new"):
            with pytest.raises(DataInUseError, match=str(tmp_path)), locked(tmp_path / "new"):
                pass
            assert (tmp_path / "new" / NAME).read_text().strip().isdigit()
        with locked(tmp_path / "new"):
            pass

    def test_a_directory_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(DataUnusableError, match="file"), locked(tmp_path / "file"):
            pass

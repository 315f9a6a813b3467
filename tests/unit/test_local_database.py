"""What lies on disk: through SQLite itself, and across openings."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from transports.local.database import Database, StorageError
from transports.local.errors import DataInUseError, DataUnusableError
from transports.local.lockfile import NAME, locked
from transports.local.model import DeadLetterPolicy, Pending, RetryPolicy, Snapshot, StoredMessage, Subscription, Topic
from transports.local.tables import SCHEMA_VERSION, Replay, Tables
from transports.local.writer import Writer

TOPIC = Topic("projects/p/topics/topic", {"a": "b"}, 1200)
SUBSCRIPTION = Subscription(
    "projects/p/subscriptions/one",
    TOPIC.name,
    10,
    600,
    None,
    True,
    {"c": "d"},
    filter="attributes:a",
    dead_letter=DeadLetterPolicy(TOPIC.name, 7),
    retry=RetryPolicy(0.5, 20),
)
SNAPSHOT = Snapshot("projects/p/snapshots/one", TOPIC.name, 12345, {"e": "f"})


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


def add(tables: Tables, *ids: int, backlogs: Sequence[int] = (), kept: Sequence[int] = (), key: str = "") -> None:
    """Store messages that these subscriptions wait for, and these keepers keep."""
    tables.add_messages(messages(*ids))
    tables.add_to_backlogs((number, each, key) for each in ids for number in backlogs)
    tables.keep((number, each) for each in ids for number in kept)


def waiting(database: Database, number: int) -> list[int]:
    return [each.message_id for each in database.page(number, after=0, until=10**9, at_most=10**6)]


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
        tables.note_deliveries(7, [Pending(2, 200, 2, "", 99, 4)])
        tables.save_counter("starts", 3)
    database.close()
    again = Database(path)
    contents = again.contents()
    assert contents.topics == {3: TOPIC}
    assert contents.subscriptions[7].settings == SUBSCRIPTION
    assert contents.snapshots == {8: SNAPSHOT}
    assert contents.counters == {"starts": 3}
    assert again.page(7, after=0, until=9, at_most=9) == [Pending(1, 100, 1), Pending(2, 200, 2, "", 99, 4)]
    assert again.leased(7, 0) == [Pending(2, 200, 2, "", 99, 4)]
    assert again.messages([2, 1, 5]) == messages(1, 2)
    again.close()


def test_a_lease_that_ended_is_not_taken_up(database: Database) -> None:
    with database.transaction() as tables:
        add(tables, 1, backlogs=[7])
        tables.note_deliveries(7, [Pending(1, 100, 1, "", 99, 1)])
        tables.note_returns(7, [1])
    assert database.leased(7, 0) == []
    assert database.page(7, after=0, until=9, at_most=9) == [Pending(1, 100, 1, "", 99, 1)]


def test_a_transaction_that_fails_changes_nothing(database: Database) -> None:
    def fail() -> None:
        with database.transaction() as tables:
            tables.save_topic(3, TOPIC)
            tables.add_messages(messages(1, 1))

    with pytest.raises(StorageError, match="cannot store"):
        fail()
    assert dict(database.contents().topics) == {}


def test_a_payload_stays_until_nobody_needs_it(database: Database) -> None:
    with database.transaction() as tables:
        add(tables, 1, backlogs=[1, 2], kept=[3])
        tables.settle(1, [1], keep=False)
        tables.settle(2, [1], keep=False)
    assert database.messages([1]) == messages(1)
    with database.transaction() as tables:
        assert tables.sweep_kept(3, until=9) == 1
    assert database.messages([1]) == []


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
    assert database.messages([1, 2, 3]) == messages(1)
    assert database.contents().condemned == []


@pytest.mark.parametrize(("published_us", "last"), [(0, 9), (1000, 9), (1001, 10), (1250, 12), (2000, 19), (9999, 30)])
def test_the_last_message_before_a_time_is_found(database: Database, published_us: int, last: int) -> None:
    with database.transaction() as tables:
        add(tables, *range(10, 31), backlogs=[1])
        tables.settle(1, [15, 16], keep=False)
        assert tables.last_before(published_us) == last


class TestReplaying:
    @pytest.fixture(autouse=True)
    def acknowledged(self, database: Database) -> None:
        """Have subscription 1 keep messages 1 to 5, of which it acknowledged all but 3."""
        with database.transaction() as tables:
            tables.save_subscription(1, SUBSCRIPTION)
            add(tables, 1, 2, 3, 4, 5, backlogs=[1], kept=[9])
            tables.settle(1, [1, 2, 4, 5], keep=True)

    def replay(self, database: Database, replay: Replay) -> list[int]:
        with database.transaction() as tables:
            tables.replay(replay)
        return waiting(database, 1)

    def test_what_was_acknowledged_comes_back(self, database: Database) -> None:
        assert self.replay(database, Replay(1, 1, [1], False, None)) == [2, 3, 4, 5]
        with database.transaction() as tables:
            assert tables.sweep_kept(1, until=9) == 1

    def test_only_what_passes_the_filter_comes_back(self, database: Database) -> None:
        assert self.replay(database, Replay(1, 0, [9], False, lambda payload: len(payload) > 4)) == [3, 5]

    def test_going_back_to_a_snapshot_acknowledges_the_rest(self, database: Database) -> None:
        with database.transaction() as tables:
            tables.take_snapshot(8, 1)
            add(tables, 6, backlogs=[1], kept=[8])
            add(tables, 7, backlogs=[1])
            tables.settle(1, [3], keep=False)
            tables.retreat(1, 8, keep=False)
            tables.replay(Replay(1, 0, [8], False, None))
        assert waiting(database, 1) == [3, 6]


def test_a_key_is_read_in_its_order(database: Database) -> None:
    with database.transaction() as tables:
        add(tables, 1, 3, 5, backlogs=[1], key="a")
        add(tables, 2, 4, backlogs=[1], key="b")
    found = database.page_of_key(1, "a", since=2, until=9, at_most=9)
    assert [(each.message_id, each.ordering_key) for each in found] == [(3, "a"), (5, "a")]


def test_more_messages_than_fit_into_one_select_are_read(database: Database) -> None:
    many = messages(*range(1, 1201))
    with database.transaction() as tables:
        tables.add_messages(many)
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
            add(tables, *range(1, 300), backlogs=[1])
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


class TestWriter:
    @pytest.fixture
    def writer(self, database: Database) -> Iterator[Writer]:
        writer = Writer(database)
        writer.start()
        yield writer
        writer.stop()

    def test_a_change_is_on_disk_when_its_future_is_done(self, writer: Writer, database: Database) -> None:
        writer.submit(lambda tables: tables.save_topic(3, TOPIC)).result(30)
        assert database.contents().topics == {3: TOPIC}

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
        writer.submit(lambda tables: tables.add_messages(messages(1))).result(30)
        with pytest.raises(StorageError):
            writer.submit(lambda tables: tables.add_messages(messages(1))).result(30)
        with pytest.raises(ZeroDivisionError):
            writer.submit(lambda tables: print(1 / 0)).result(30)
        writer.submit(lambda tables: tables.save_topic(3, TOPIC)).result(30)
        assert database.contents().topics == {3: TOPIC}

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

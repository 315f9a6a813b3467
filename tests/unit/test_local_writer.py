"""Group commit, and one broker per directory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from local_tables import TOPIC, bundles

from transports.local.errors import DataInUseError, DataUnusableError
from transports.local.lockfile import NAME, locked
from transports.local.storage.database import Database, StorageError
from transports.local.storage.tables import Tables
from transports.local.storage.writer import Writer


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "broker.db")
    yield database
    database.close()


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
        writer.submit(lambda tables: tables.add_bundles(bundles(1))).result(30)
        with pytest.raises(StorageError):
            writer.submit(lambda tables: tables.add_bundles(bundles(1))).result(30)
        with pytest.raises(ZeroDivisionError):
            writer.submit(lambda tables: print(1 / 0)).result(30)
        writer.submit(lambda tables: tables.save_topic(3, TOPIC)).result(30)
        assert database.contents().topics == {3: TOPIC}

    def test_a_disk_that_refuses_again_and_again_is_logged_once_in_a_while(
        self, writer: Writer, caplog: pytest.LogCaptureFixture
    ) -> None:
        writer.submit(lambda tables: tables.add_bundles(bundles(1))).result(30)
        for _ in range(20):
            with pytest.raises(StorageError):
                writer.submit(lambda tables: tables.add_bundles(bundles(1))).result(30)
            with pytest.raises(StorageError):
                writer.commit_here([lambda tables: tables.add_bundles(bundles(1))])
        assert ["cannot store" in each for each in caplog.messages] == [True]

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

"""The redo log: what is read of it after any end, and operations as they are written down in it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_tables import add, stored, waiting

from transports.local.errors import DataUnusableError
from transports.local.model import Draft
from transports.local.storage import operations, redo
from transports.local.storage.bundles import Part, bundled
from transports.local.storage.database import Database, StorageError
from transports.local.storage.entries import HEAD_BYTES, entries_in, first_head, head_of
from transports.local.storage.operations import Acknowledge, Operation, Publish, Wait
from transports.local.storage.redo import RedoLog
from transports.local.storage.segments import Place, Segments
from transports.local.storage.tables import Tables

IDENTITY = 2**63 - 5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The first segment."""
    return tmp_path / "broker.db-redo-1"


#: Segments that the tables refer to.
needed: set[int] = set()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[int], RedoLog]]:
    """Open the log of a database of that identity."""
    logs: list[RedoLog] = []

    def opened(identity: int = IDENTITY) -> RedoLog:
        logs.append(RedoLog(Segments(tmp_path / "broker.db"), identity, lambda: needed))
        return logs[-1]

    needed.clear()
    yield opened
    for each in logs:
        each.close()


def fail_to_sync(file: int) -> None:
    raise OSError(5, "Input/output error")


def bodies(log: RedoLog, after: int) -> list[bytes]:
    return log.read(after)


class TestLog:
    def test_what_was_appended_is_read_in_order(self, opened: Callable[..., RedoLog]) -> None:
        log = opened()
        assert bodies(log, 0) == []
        log.begin_anew(0)
        assert log.append([[b"one"], [b"t", b"", b"wo"]])
        assert log.append([[b"three"]])
        assert log.last == 3
        again = opened()
        assert bodies(again, 0) == [b"one", b"two", b"three"]
        assert again.last == 3
        assert not again.append([[b"four"]]), "before it has begun anew it would write over what was read"
        assert bodies(opened(), 2) == [b"three"]

    def test_what_is_written_over_an_older_one_ends_where_it_ends(self, opened: Callable[..., RedoLog]) -> None:
        log = opened()
        assert log.append([[b"same"], [b"same"], [b"same"]])
        log.begin_anew(4)
        assert log.append([[b"new!"]])
        again = opened()
        assert bodies(again, 4) == [b"new!"]
        assert again.last == 5

    def test_an_older_one_is_no_successor_though_its_number_is_right(self, opened: Callable[..., RedoLog]) -> None:
        """As after a crash that left the second of two entries, and not the first, whose number is taken once more."""
        log = opened()
        assert log.append([[b"lost"], [b"left"]])
        log.begin_anew(0)
        assert log.append([[b"anew"]])
        assert bodies(opened(), 0) == [b"anew"]

    def test_numbers_that_do_not_follow_each_other_end_it(self, opened: Callable[..., RedoLog]) -> None:
        log = opened()
        assert log.append([[b"one"]])
        log.last += 1
        assert log.append([[b"three"]])
        assert bodies(opened(), 0) == [b"one"]

    def test_it_is_for_nobody_else_and_synced(
        self, opened: Callable[..., RedoLog], path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log, done = opened(), []
        real, allocate = redo._write, redo._allocate
        monkeypatch.setattr(redo, "_allocate", lambda *given: (done.append("allocate"), allocate(*given)))
        monkeypatch.setattr(redo, "_write", lambda *given: (done.append("write"), real(*given)))
        monkeypatch.setattr(redo, "_sync", lambda file: done.append("sync"))
        monkeypatch.setattr(os, "fsync", lambda file: done.append("sync all"))
        assert log.append([[b"one"]])
        assert done == ["write", "sync all", "write", "sync"], "small ones find blocks that were written to"
        done.clear()
        assert log.append([[bytes(redo._WRITTEN_BYTES)]])
        assert done == ["allocate", "sync all", "write", "sync"]
        assert path.stat().st_mode & 0o777 == 0o600

    def test_numbers_go_on_behind_what_the_tables_have(self, opened: Callable[..., RedoLog]) -> None:
        log = opened()
        assert bodies(log, 17) == []
        log.begin_anew(17)
        assert log.append([[b"next"]])
        assert log.last == 18
        assert bodies(opened(), 18) == []

    def test_a_torn_end_is_no_entry(self, opened: Callable[..., RedoLog], path: Path) -> None:
        log = opened()
        sizes = []
        for body in (b"one", b"two" * 20, b"three"):
            assert log.append([[body]])
            sizes.append(HEAD_BYTES + len(body))
        whole = path.read_bytes()[: sum(sizes)]
        for cut in range(len(whole)):
            path.write_bytes(whole[:cut])
            count = sum(sum(sizes[:number]) <= cut for number in (1, 2, 3))
            assert len(bodies(opened(), 0)) == count

    @given(place=st.integers(0, 131), bit=st.integers(0, 7))
    def test_a_wrong_bit_ends_it(self, place: int, bit: int) -> None:
        entries = head_of(IDENTITY, 7, 1, [b"0123456789"]) + b"0123456789"
        entries += head_of(IDENTITY, 7, 2, [b"x" * 58]) + b"x" * 58
        damaged = bytearray(entries)
        damaged[place] ^= 1 << bit
        before = 0 if place < HEAD_BYTES + 10 else 1
        assert len(list(entries_in(bytes(damaged), IDENTITY))) == before

    def test_many_parts_are_written_whole(self, opened: Callable[..., RedoLog]) -> None:
        parts = [bytes([number % 256]) * number for number in range(3000)]
        assert opened().append([parts[:1500], parts[1500:]])
        assert bodies(opened(), 0) == [b"".join(parts[:1500]), b"".join(parts[1500:])]

    def test_a_write_that_comes_out_short_is_gone_on_with(
        self, opened: Callable[..., RedoLog], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.pwrite
        monkeypatch.setattr(os, "pwritev", lambda file, buffers, offset: real(file, buffers[0][:7], offset))
        monkeypatch.setattr(os, "pwrite", lambda file, data, offset: real(file, data[:11], offset))
        monkeypatch.setattr(redo, "_STEP_BYTES", 64)
        assert opened().append([[b"a text that takes some writes"]])
        assert bodies(opened(), 0) == [b"a text that takes some writes"]

    def test_a_disk_that_refuses_is_not_asked_again_before_a_transaction(
        self, opened: Callable[..., RedoLog], path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        log = opened()
        assert log.append([[b"one"]])
        read_only = os.open(path, os.O_RDONLY)
        writable = os.dup(log._file)
        os.dup2(read_only, log._file)
        assert not log.append([[b"two"]])
        assert "is refused may be carried out at the next start" in caplog.text
        os.dup2(writable, log._file)
        os.close(read_only)
        os.close(writable)
        assert "Bad file descriptor" in caplog.text
        assert not log.append([[b"three"]])
        log.begin_anew(log.last + 1)
        assert log.append([[b"four"]])
        assert bodies(opened(), log.last - 1) == [b"four"]

    def test_a_file_that_cannot_grow_says_so_and_nothing_else(
        self, opened: Callable[..., RedoLog], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def full(file: int) -> None:
            raise OSError(28, "No space left on device")

        log = opened()
        monkeypatch.setattr(os, "fsync", full)
        assert not log.append([[b"one"]])
        (record,) = caplog.records
        assert record.getMessage().endswith("cannot grow: No space left on device")
        monkeypatch.undo()
        log.begin_anew(log.last + 1)
        assert log.append([[b"two"]])

    @pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EINVAL, None])
    def test_a_system_that_cannot_allocate_has_zeros_written(
        self, opened: Callable[..., RedoLog], path: Path, monkeypatch: pytest.MonkeyPatch, error: int | None
    ) -> None:
        def refuse(file: int, offset: int, size: int) -> None:
            raise OSError(error, "it does not know that")

        if error is None:
            monkeypatch.delattr(os, "posix_fallocate")
        else:
            monkeypatch.setattr(os, "posix_fallocate", refuse)
        log, large = opened(), b"1" * redo.LARGE_BYTES
        assert log.append([[large]])
        assert path.stat().st_size == redo._STEP_BYTES
        assert bodies(opened(), 0) == [large]

    def test_what_could_not_be_synced_is_taken_back(
        self, opened: Callable[..., RedoLog], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log, real = opened(), redo._sync
        assert log.append([[b"one"]])
        failures = iter([OSError(5, "Input/output error")])

        def sync(file: int) -> None:
            if (error := next(failures, None)) is not None:
                raise error
            real(file)

        monkeypatch.setattr(redo, "_sync", sync)
        assert not log.append([[b"two"], [b"three"]])
        assert bodies(opened(), 0) == [b"one"]

    def test_when_it_cannot_grow_it_keeps_no_room_that_the_tables_could_have(
        self, opened: Callable[..., RedoLog], path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fill(file: int, buffers: Any, offset: int, size: int) -> None:
            os.pwrite(file, bytes(size // 2), offset)
            raise OSError(errno.ENOSPC, "No space left on device")

        log = opened()
        with monkeypatch.context() as patch:
            patch.setattr(redo, "_write", fill)
            assert log.append([[b"one"]]) is None
        assert path.stat().st_size == 0
        log.begin_anew(1)
        assert log.append([[b"one"]])
        assert bodies(opened(), 1) == [b"one"]

    def test_what_is_not_synced_at_once_is_synced_when_it_is_asked_for_or_with_the_next_or_at_the_end(
        self, opened: Callable[..., RedoLog], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log, real = opened(), redo._sync
        syncs: list[int] = []
        monkeypatch.setattr(redo, "_sync", lambda file: (syncs.append(file), real(file)))
        assert log.append([[b"one"]], synced=False)
        assert log.append([[b"two"]], synced=False)
        assert (log.unsynced, len(syncs)) == (True, 0)
        assert bodies(opened(), 0) == [b"one", b"two"], "it is written, and outlives the process"
        assert log.sync()
        assert log.sync()
        assert (log.unsynced, len(syncs)) == (False, 1)
        assert log.append([[b"three"]], synced=False)
        assert log.append([[b"four"]])
        assert (log.unsynced, len(syncs)) == (False, 2)
        assert log.append([[b"five"]], synced=False)
        log.begin_anew(log.last + 1)
        assert (log.unsynced, len(syncs)) == (False, 2), "a synced transaction has it"
        other = RedoLog(log.segments, IDENTITY, lambda: needed)
        other.begin_anew(0)
        assert other.append([[b"six"]], synced=False)
        other.close()
        assert len(syncs) == 3

    def test_after_a_sync_that_failed_nothing_is_appended_before_a_synced_transaction(
        self, opened: Callable[..., RedoLog], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = opened()
        assert log.append([[b"one"]], synced=False)
        with monkeypatch.context() as patch:
            patch.setattr(redo, "_sync", fail_to_sync)
            assert not log.sync()
        assert not log.sync(), "the kernel forgets what it could not write, and tells of it once"
        assert not log.append([[b"two"]])
        assert not log.append([[b"two"]], synced=False)
        assert log.unsynced
        log.begin_anew(log.last + 1)
        assert not log.unsynced
        assert log.append([[b"two"]])

    def test_a_refused_entry_leaves_those_before_it_unsynced(
        self, opened: Callable[..., RedoLog], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = opened()
        assert log.append([[b"one"]], synced=False)
        with monkeypatch.context() as patch:
            patch.setattr(redo, "_sync", fail_to_sync)
            assert not log.append([[b"two"]])
        assert log.unsynced

    def test_that_of_another_database_says_nothing(self, opened: Callable[..., RedoLog], path: Path) -> None:
        assert opened(IDENTITY).append([[b"one"]])
        assert first_head(path) == (IDENTITY, 1)
        assert bodies(opened(IDENTITY - 1), 0) == []
        path.write_bytes(bytes(100))
        assert first_head(path) is None
        path.write_bytes(b"short")
        assert first_head(path) is None


numbers = st.integers(1, 2**62)
parts = st.builds(
    lambda first, size, bits: Part(first, first + size, bits & (2 << size) - 1),
    numbers,
    st.integers(0, 127),
    st.integers(0, 2**128 - 1),
)
drafts = st.lists(st.builds(Draft, st.binary(max_size=300), st.just({}), st.sampled_from(["", "k", "ä"])), min_size=1)
publications = st.builds(
    Publish,
    st.none() | numbers,
    st.builds(bundled, numbers, numbers, drafts),
    st.lists(st.builds(Wait, numbers, parts, st.text(max_size=5))),
    st.lists(st.tuples(numbers, parts)),
)
acknowledgements = st.builds(
    Acknowledge,
    numbers,
    st.dictionaries(numbers, st.integers(1, 2**128 - 1)),
    st.booleans(),
    st.none() | numbers,
    numbers,
)


def test_of_an_acknowledgement_nothing_is_left_in_the_log() -> None:
    operation = Acknowledge(7, {number * 1000: 2**128 - 1 for number in range(1000)}, False, None, 5)
    parts = operation.parts()
    assert max(map(len, parts)) > redo.LARGE_BYTES
    left, rest = operations.left(operation, Place(1, 0), parts)
    assert (left, list(rest)) == (operation, list(parts)), "the tables have all of it to take"


@given(operation=publications | acknowledgements)
def test_an_operation_is_read_as_it_was_written(operation: Operation) -> None:
    assert operations.read(b"".join(operation.parts())) == operation


def fail(tables: Tables, number: int) -> None:
    raise StorageError("power cut")


class TestStart:
    """A database whose tables lack what its log has."""

    @pytest.fixture
    def database(self, tmp_path: Path) -> Iterator[Database]:
        database = Database(tmp_path / "broker.db")
        yield database
        database.close()

    @staticmethod
    def publish(first: int, count: int = 1) -> Publish:
        bundles = bundled(first, 100, [Draft(b"x")] * count)
        return Publish(None, bundles, [Wait(7, each.whole, "") for each in bundles], [])

    def test_what_the_tables_lack_is_done_once(self, database: Database, tmp_path: Path) -> None:
        assert database.redo.append([self.publish(1).parts(), self.publish(2, 3).parts()])
        with database.transaction() as tables:
            self.publish(1).apply(tables)
            tables.save_redone(database.redo.last - 1)
        assert database.redo.append([Acknowledge(7, {1: 1, 2: 0b10}, False, None, 5).parts()])
        latest = database.redo.last
        for start in (1, 2):
            again = Database(tmp_path / "broker.db")
            assert (stored(again), waiting(again, 7)) == ([2, 3, 4], [2, 4])
            assert again.contents().counters["clock_us"] == 5
            assert again.redo.last == latest + start, "each start is a transaction that is synced"
            again.close()

    def test_a_file_that_belongs_to_another_database_is_set_aside(
        self, database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert database.redo.append([self.publish(1).parts()])
        other = tmp_path / "other"
        other.mkdir()
        shutil.copy(tmp_path / "broker.db-redo-1", other)
        content = (other / "broker.db-redo-1").read_bytes()
        again = Database(other / "broker.db")
        assert stored(again) == []
        again.close()
        (aside,) = other.glob("broker.db-redo-1.foreign-*")
        assert aside.read_bytes() == content
        assert aside.name in caplog.text

    def test_what_comes_after_a_gap_is_set_aside(
        self, database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As when an old copy of the database was put back beside a newer log."""
        assert database.redo.append([self.publish(1).parts()])
        database.redo.begin_anew(database.redo.last + 1)
        assert database.redo.append([self.publish(2).parts()])
        again = Database(tmp_path / "broker.db")
        assert stored(again) == []
        again.close()
        (aside,) = tmp_path.glob("broker.db-redo-1.foreign-*")
        assert aside.name in caplog.text

    def test_nothing_happens_to_the_log_before_a_start_has_synced_what_it_found(
        self, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a kill neither the tables nor the last entry need be on disk."""
        assert database.redo.append([self.publish(1).parts()])
        before = {each.name: each.stat().st_ino for each in tmp_path.glob("broker.db-redo-*")}
        with monkeypatch.context() as patched:
            patched.setattr(Tables, "save_redone", fail)
            with pytest.raises(DataUnusableError, match="power cut"):
                Database(tmp_path / "broker.db")
        assert {each.name: each.stat().st_ino for each in tmp_path.glob("broker.db-redo-*")} == before
        Database(tmp_path / "broker.db").close()
        after = [each.name for each in tmp_path.glob("broker.db-redo-*")]
        assert len(after) > len(before)

    def test_what_a_start_redoes_lies_in_the_tables_though_it_is_large(
        self, database: Database, tmp_path: Path
    ) -> None:
        """It need not be on disk in the log."""
        large = Publish(None, bundled(1, 100, [Draft(bytes(redo.LARGE_BYTES))]), [Wait(7, Part(1, 1, 1), "")], [])
        assert database.redo.append([large.parts()])
        again = Database(tmp_path / "broker.db")
        assert again._reader.execute("SELECT length(payload), segment FROM bundles").fetchall() == [(8192, None)]
        again.close()

    def test_one_that_cannot_be_done_refuses_the_start_and_stays(self, database: Database, tmp_path: Path) -> None:
        with database.transaction() as tables:
            add(tables, 1, backlogs=[7])
        assert database.redo.append([self.publish(1).parts()])
        for _ in range(2):
            with pytest.raises(DataUnusableError, match=r"broker\.db: The broker cannot store"):
                Database(tmp_path / "broker.db")
        assert first_head(tmp_path / "broker.db-redo-1") is not None

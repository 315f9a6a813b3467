"""Operations that the redo log confirms: the tables follow, in order, whatever comes between."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from commits_bench import CommitsBench, Failing
from local_tables import refuse_to_write

from transports.local import loops
from transports.local.storage import commits, debt, redo, wanted
from transports.local.storage.database import StorageError
from transports.local.storage.entries import entries_in
from transports.local.storage.segments import Place
from transports.local.storage.tables import Tables


class Count:
    """An operation that says when it was made, by name."""

    def __init__(self, bench: Bench, name: str, size: int, before: Callable[[], object]) -> None:
        self._bench, self._name, self._size, self._before = bench, name, size, before

    def apply(self, tables: Tables) -> None:
        self._before()
        tables.save_counter(self._name, 1)
        self._bench.made.append(self._name)

    def parts(self) -> list[bytes]:
        # Nothing of it is so large that it would be left in the log.
        return [self._name.encode(), *[bytes(4096)] * (self._size // 4096), bytes(self._size % 4096)]

    def left(self, blobs: Place) -> Count:
        return self


class Bench(CommitsBench):
    """What was confirmed, and what the tables have, by name."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.confirmed: list[str] = []
        self.made: list[str] = []
        self.applied: list[str] = []

    def operate(
        self,
        name: str,
        size: int = 0,
        before: Callable[[], object] = lambda: None,
        *,
        lasting: bool = True,
        awaited: bool = False,
    ) -> asyncio.Future[str]:
        return self.commits.operate(
            Count(self, name, size, before),
            lambda error: self._confirm(name, error),
            lambda: self.applied.append(name),
            lasting=lasting,
            awaited=lambda: awaited,
        )

    def begin(self, name: str, before: Callable[[], object] = lambda: None) -> asyncio.Future[str]:
        return self.commits.begin(Count(self, name, 0, before).apply, lambda error: self._confirm(name, error))

    def logged(self) -> list[str]:
        """Return what the log would have redone."""
        segments = self.database.segments
        content = segments.path(segments.numbers[-1]).read_bytes()
        identity = self.database.redo._identity
        return [body.rstrip(b"\0").decode() for _, body in entries_in(content, identity)]

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not holds():
                await asyncio.sleep(0.001)

    def _confirm(self, name: str, error: BaseException | None) -> str:
        if error is not None:
            raise error
        self.confirmed.append(name)
        return name


Scenario = Callable[[Bench], Coroutine[Any, Any, None]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no pause of a busy machine count as a slow disk."""
    monkeypatch.setattr(wanted, "SLOW_SECONDS", 60)


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Scenario], None]:
    async def main(scenario: Scenario) -> None:
        bench = Bench(tmp_path)
        try:
            async with asyncio.timeout(60):
                await scenario(bench)
        finally:
            bench.commits.close()
            bench.writer.stop()
            bench.database.close()

    return lambda scenario: loops.run(main(scenario))


Play = Callable[[Scenario], None]
_LARGE = 2 * debt.SMALL_BYTES


def test_those_of_one_turn_are_confirmed_before_the_tables_have_them(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        wanted = [bench.operate(name) for name in "abc"]
        wanted[0].add_done_callback(lambda done: seen.append((bench.logged(), bench.on_disk())))
        await asyncio.gather(*wanted)
        await bench.commits.followed()
        assert bench.on_disk() == {"a", "b", "c"}
        assert bench.confirmed == bench.made == bench.applied == ["a", "b", "c"]
        assert bench.database._writer.execute("SELECT done FROM redo").fetchone() == (bench.database.redo.last,)

    seen: list[tuple[list[str], set[str]]] = []
    play(scenario)
    assert seen == [(["a", "b", "c"], set())]


def test_one_in_the_company_of_another_change_shares_its_transaction(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        await asyncio.gather(bench.operate("a"), bench.begin("b"), bench.operate("c"))
        assert bench.on_disk() == {"a", "b", "c"}
        assert bench.made == ["a", "b", "c"]
        assert bench.logged() == []

    play(scenario)


def test_while_the_tables_follow_others_are_confirmed_and_changes_wait(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        go_on = threading.Event()
        await bench.operate("large", _LARGE, lambda: go_on.wait(30))
        assert await bench.operate("a") == "a"
        change = bench.begin("change")
        later = bench.operate("b")
        await asyncio.sleep(0.05)
        assert (bench.confirmed, bench.made) == (["large", "a"], [])
        go_on.set()
        await asyncio.gather(change, later)
        assert bench.made == bench.confirmed == ["large", "a", "change", "b"]

    play(scenario)


def test_where_the_log_has_no_room_a_transaction_confirms(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redo, "FULL_BYTES", 1000)

    async def scenario(bench: Bench) -> None:
        for name in "abcdef":
            await bench.operate(name, 300)
        assert "d" in bench.on_disk()
        assert bench.logged()[:2] == ["e", "f"]
        await bench.commits.followed()
        assert bench.made == list("abcdef")

    play(scenario)


def test_where_there_is_no_room_and_the_tables_refuse_who_asks_is_told(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redo, "FULL_BYTES", 1000)

    async def scenario(bench: Bench) -> None:
        while not bench.database.redo.is_full:
            await bench.operate("a", 300)
        await bench.commits.followed()
        bench.database._writer.execute("PRAGMA query_only = 1")
        with pytest.raises(StorageError):
            await bench.operate("b")
        bench.database._writer.execute("PRAGMA query_only = 0")
        await bench.operate("c")
        assert bench.on_disk() == {"a", "c"}
        await bench.operate("d")
        assert bench.logged() == ["d"]

    play(scenario)


def test_what_the_tables_refuse_stays_owed_and_nothing_passes_it(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debt, "RETRY_SECONDS", 0.01)

    async def scenario(bench: Bench) -> None:
        bench.database._writer.execute("PRAGMA query_only = 1")
        assert await bench.operate("a") == "a"
        await bench.commits.followed()
        for ask in (bench.operate, bench.begin, bench.operate):
            with pytest.raises(StorageError):
                await ask("b")
        assert bench.applied == []
        bench.database._writer.execute("PRAGMA query_only = 0")
        await bench.until(lambda: bench.applied == ["a"])
        await bench.operate("d")
        await bench.commits.followed()
        assert bench.on_disk() == {"a", "d"}
        assert bench.applied == ["a", "d"]
        assert bench.confirmed == ["a", "d"]

    play(scenario)


def test_a_log_that_refuses_leaves_it_to_the_tables(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        refuse_to_write(bench.database, True)
        with pytest.raises(StorageError):
            await bench.operate("a")
        bench.database._writer.execute("PRAGMA query_only = 0")
        await bench.operate("b")
        assert bench.on_disk() == {"b"}
        refuse_to_write(bench.database, False)
        await bench.operate("c")
        assert bench.logged() == ["c"]

    play(scenario)


def test_after_a_transaction_that_failed_nothing_is_logged_before_another_is_synced(play: Play) -> None:
    """What it wrote may come true at the next start, under the number that the next entry would have."""

    async def scenario(bench: Bench) -> None:
        with pytest.raises(StorageError):
            await bench.begin("a", full)
        await bench.operate("b")
        assert bench.on_disk() == {"b"}
        await bench.operate("c")
        assert bench.logged() == ["c"]

    def full() -> None:
        raise StorageError("full")

    play(scenario)


def test_a_close_begins_no_other_segment(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redo, "FULL_BYTES", 1000)

    async def scenario(bench: Bench) -> None:
        bench.database.redo._stays = True
        while not bench.database.redo.is_full:
            await bench.operate("a", 300)
        late = bench.begin("b")
        bench.commits.close()
        bench.writer.stop()
        await late
        assert bench.database.redo.is_full
        assert len(bench.database.segments.numbers) == 1

    play(scenario)


def test_after_a_slow_sync_the_writers_thread_confirms(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(bench: Bench) -> None:
        real = bench.database.redo.append

        def slow(entries: Any, *, synced: bool) -> list[Place] | None:
            time.sleep(0.02)
            return real(entries, synced=synced)

        monkeypatch.setattr(wanted, "SLOW_SECONDS", 0.01)
        monkeypatch.setattr(bench.database.redo, "append", slow)
        await bench.operate("a")
        monkeypatch.undo()
        await bench.commits.followed()
        threads: list[int] = []
        await bench.operate("b", before=lambda: threads.append(threading.get_ident()))
        assert bench.on_disk() == {"a", "b"}
        assert threads != [threading.get_ident()]

    play(scenario)


@pytest.mark.parametrize("times", [1, 2])
def test_closing_makes_up_for_what_the_thread_cannot_do(tmp_path: Path, times: int) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        await bench.begin("start")
        failing = Failing(times)
        await bench.operate("large", _LARGE, failing)
        await bench.until(failing.begun.is_set)
        await bench.operate("a")
        late = bench.begin("late")
        bench.commits.close()
        failing.go_on.set()
        found = await asyncio.gather(late, return_exceptions=True)
        bench.commits.later(lambda tables: tables.save_counter("last", 1))
        bench.commits.close()
        bench.writer.stop()
        assert isinstance(found[0], StorageError) is (times == 2)
        assert bench.made[-3:] == (["large", "a", "late"] if times == 1 else ["start", "large", "a"])
        assert bench.on_disk() >= {"large", "a", "last"}
        (done,) = bench.database._writer.execute("SELECT done FROM redo").fetchone()
        assert done >= 3, "nothing of it is done once more at the next start"
        bench.database.close()

    asyncio.run(scenario())


def test_after_the_close_the_log_confirms_nothing(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        bench.commits.close()
        await bench.operate("a")
        assert bench.on_disk() == {"a"}
        assert bench.logged() == []

    play(scenario)


def test_what_was_refused_is_made_before_what_was_confirmed_meanwhile(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debt, "RETRY_SECONDS", 600)

    async def scenario(bench: Bench) -> None:
        failing = Failing(1)
        await bench.operate("large", _LARGE, failing)
        await bench.until(failing.begun.is_set)
        await bench.operate("a")
        failing.go_on.set()
        await bench.until(lambda: bench.commits._debt.refused)
        await bench.begin("b")
        assert bench.made == ["large", "a", "b"]
        assert bench.applied == ["large", "a"]

    play(scenario)


def test_what_follows_comes_in_the_order_in_which_it_was_asked_for(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        seen: list[str] = []
        change = lambda tables: None  # noqa: E731
        first = bench.commits.begin(change, lambda error: seen.append("first"), lambda: seen.append("first applied"))
        second = bench.commits.begin(change, lambda error: seen.append("second"), lambda: seen.append("second applied"))
        await asyncio.gather(first, second)
        assert seen == ["first applied", "first", "second applied", "second"]

    play(scenario)


def test_a_change_that_changes_nothing_is_synced_with_all_before_it(play: Play) -> None:
    """SQLite syncs only what has written something, and the log would begin anew."""

    async def scenario(bench: Bench) -> None:
        await bench.operate("a")
        await bench.commits.followed()
        wal = bench.database.redo._name.with_name("broker.db-wal")
        before = wal.read_bytes()
        await bench.commits.begin(lambda tables: None, lambda error: None)
        assert wal.read_bytes() != before

    play(scenario)


def test_only_what_has_to_be_is_synced(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        found: list[int] = []

        def look(tables: Tables) -> None:
            found.extend(tables._connection.execute("PRAGMA synchronous").fetchone())

        bench.commits.later(look)
        await bench.until(lambda: found == [1])
        await bench.commits.begin(look, lambda error: None)
        assert found == [1, 2]

    play(scenario)


def test_who_waits_for_the_tables_waits_for_nothing_that_comes_later(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.operate("a", _LARGE)
        waiting = asyncio.ensure_future(bench.commits.followed())
        await bench.until(lambda: bench.applied == ["a"])
        go_on = threading.Event()
        await bench.operate("b", _LARGE, lambda: go_on.wait(30))
        await waiting
        assert bench.applied == ["a"]
        go_on.set()

    play(scenario)


def test_what_is_much_is_left_to_the_writers_thread(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        threads: list[int] = []
        note = lambda: threads.append(threading.get_ident())  # noqa: E731
        await asyncio.gather(bench.operate("large", _LARGE, note), bench.begin("change", note))
        assert threading.get_ident() not in threads
        await bench.begin("small", note)
        assert threads[-1] == threading.get_ident()

    play(scenario)


def test_after_a_close_that_failed_everything_fails_and_nothing_waits(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        bench.database._writer.execute("PRAGMA query_only = 1")
        waiting = bench.begin("a")
        bench.commits.close()
        late = bench.begin("b")
        for each in (waiting, late):
            with pytest.raises(StorageError):
                await each
        bench.database._writer.execute("PRAGMA query_only = 0")
        assert await bench.begin("c") == "c"
        assert bench.on_disk() == {"c"}

    play(scenario)


def test_after_a_sync_that_may_have_failed_everything_is_made_certain_first(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(bench: Bench) -> None:
        def fail(tables: Tables) -> None:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error

        await bench.operate("a")
        await bench.commits.followed()
        wal = bench.database.redo._name.with_name("broker.db-wal")
        grown = wal.stat().st_size
        with pytest.raises(StorageError):
            await bench.commits.begin(fail, _raise)
        await bench.begin("b")
        assert wal.stat().st_size < grown
        assert bench.on_disk() == {"a", "b"}

    play(scenario)


def _raise(error: BaseException | None) -> None:
    if error is not None:
        raise error


class TestLasting:
    @pytest.fixture
    def syncs(self, monkeypatch: pytest.MonkeyPatch) -> list[OSError | None]:
        """How the syncs of the log ended; an error that is appended beforehand is raised by the next one."""
        done: list[OSError | None] = []
        real = redo._sync

        def sync(file: int) -> None:
            if done and done[-1] is not None and done.count(done[-1]) == 1:
                done.append(done[-1])
                raise done[-1]
            real(file)
            done.append(None)

        monkeypatch.setattr(redo, "_sync", sync)
        return done

    @pytest.fixture(autouse=True)
    def never(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(commits, "SYNC_SECONDS", 3600)

    def test_what_need_not_last_is_confirmed_before_it_is_synced(self, play: Play, syncs: list[OSError | None]) -> None:
        async def scenario(bench: Bench) -> None:
            await asyncio.gather(*(bench.operate(name, lasting=False) for name in "abc"))
            assert bench.logged() == ["a", "b", "c"]
            assert syncs == []
            bench.commits._sync()
            assert syncs == [None]
            assert not bench.database.redo.unsynced

        play(scenario)

    def test_it_is_synced_soon_and_so_is_the_next(
        self, play: Play, syncs: list[OSError | None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario(bench: Bench) -> None:
            for count, name in enumerate("ab"):
                await bench.operate(name, lasting=False)
                await bench.until(lambda count=count: len(syncs) == count + 1)

        monkeypatch.setattr(commits, "SYNC_SECONDS", 0.01)
        play(scenario)

    def test_in_the_company_of_one_that_has_to_last_it_is_synced_at_once(
        self, play: Play, syncs: list[OSError | None]
    ) -> None:
        async def scenario(bench: Bench) -> None:
            await asyncio.gather(bench.operate("a", lasting=False), bench.operate("b"))
            assert syncs == [None]
            bench.commits._sync()
            assert syncs == [None], "there is nothing left to sync"

        play(scenario)

    def test_if_it_cannot_be_synced_it_lasts_with_a_transaction(self, play: Play, syncs: list[OSError | None]) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.operate("a", lasting=False)
            syncs.append(OSError(5, "Input/output error"))
            bench.commits._sync()
            await bench.until(lambda: not bench.database.redo.unsynced)
            assert len(syncs) == 2
            assert bench.on_disk() == {"a"}
            await bench.operate("b")
            assert bench.logged() == ["b"]

        play(scenario)

    def test_while_the_thread_is_at_work_that_waits_for_its_end(
        self, play: Play, syncs: list[OSError | None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario(bench: Bench) -> None:
            go_on = threading.Event()
            await bench.operate("large", size=_LARGE, before=lambda: go_on.wait(30))
            await bench.until(lambda: bench.commits._debt.at_work)
            await bench.operate("a", lasting=False)
            syncs.append(OSError(5, "Input/output error"))
            bench.commits._sync()
            assert bench.database.redo.unsynced
            go_on.set()
            await bench.until(lambda: not bench.database.redo.unsynced)
            assert bench.on_disk() == {"large", "a"}

        monkeypatch.setattr(commits, "SYNC_SECONDS", 0.01)
        play(scenario)

    def test_if_the_transaction_is_refused_too_it_is_asked_for_again(
        self, play: Play, syncs: list[OSError | None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.operate("a", lasting=False)
            await bench.commits.followed()
            syncs.append(OSError(5, "Input/output error"))
            bench.database._writer.execute("PRAGMA query_only = 1")
            bench.commits._sync()
            await bench.until(lambda: bench.commits._debt.refused)
            bench.database._writer.execute("PRAGMA query_only = 0")
            await bench.until(lambda: not bench.database.redo.unsynced)
            assert not bench.commits._debt.refused

        monkeypatch.setattr(debt, "RETRY_SECONDS", 0.01)
        play(scenario)

    def test_after_the_end_nothing_is_synced(self, play: Play) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.operate("a", lasting=False)
            bench.commits.close()
            assert bench.commits._to_sync is not None
            assert bench.commits._to_sync.cancelled()

        play(scenario)

    def test_a_clean_end_leaves_nothing_unsynced(self, play: Play, syncs: list[OSError | None]) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.operate("a", lasting=False)
            await bench.commits.followed()
            assert syncs == []

        play(scenario)
        assert syncs == [None]


class TestFollowing:
    @pytest.fixture(autouse=True)
    def never(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(debt, "FOLLOW_SECONDS", 3600)

    def test_what_nobody_waits_for_is_followed_together_with_what_comes_after_it(self, play: Play) -> None:
        async def scenario(bench: Bench) -> None:
            names = [str(number) for number in range(debt.MOST_OWED)]
            for name in names[:-1]:
                await bench.operate(name)
            await asyncio.sleep(0.05)
            assert (bench.confirmed, bench.made) == (names[:-1], [])
            await bench.operate(names[-1])
            await bench.until(lambda: bench.applied == names)

        play(scenario)

    def test_after_a_while_it_is_followed_by_itself(self, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario(bench: Bench) -> None:
            for name in "ab":
                await bench.operate(name)
                await bench.until(lambda: bench.applied == bench.confirmed)

        monkeypatch.setattr(debt, "FOLLOW_SECONDS", 0.01)
        play(scenario)

    def test_what_somebody_waits_for_is_followed_at_once_with_what_was_before(self, play: Play) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.operate("a")
            await bench.operate("b", awaited=True)
            await bench.until(lambda: bench.applied == ["a", "b"])

        play(scenario)

    def test_who_comes_to_wait_for_it_has_it_followed_at_once(self, play: Play) -> None:
        async def scenario(bench: Bench) -> None:
            bench.commits.hurry()
            await bench.operate("a")
            bench.commits.hurry()
            bench.commits.hurry()
            await bench.until(lambda: bench.applied == ["a"])

        play(scenario)

    def test_who_waits_for_the_tables_has_them_follow_at_once(self, play: Play) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.operate("a")
            await bench.commits.followed()
            assert bench.applied == ["a"]

        play(scenario)

    def test_what_is_large_is_followed_at_once(self, play: Play) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.operate("a", size=redo.LARGE_BYTES)
            await bench.until(lambda: bench.applied == ["a"])

        play(scenario)

    def test_a_change_for_which_nobody_waits_takes_it_along(self, play: Play) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.operate("a")
            bench.commits.later(Count(bench, "later", 0, lambda: None).apply)
            await bench.until(lambda: bench.made == ["a", "later"])

        play(scenario)

    def test_a_clean_end_follows_what_is_owed(self, play: Play) -> None:
        async def scenario(bench: Bench) -> None:
            benches.append(bench)
            await bench.operate("a")

        benches: list[Bench] = []
        play(scenario)
        assert benches[0].made == ["a"]

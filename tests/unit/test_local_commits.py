"""Group commit on the event loop: who shares a transaction, which thread commits, and what follows."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from commits_bench import CommitsBench

from transports.local.storage import wanted
from transports.local.storage.database import StorageError
from transports.local.storage.tables import Tables


class Bench(CommitsBench):
    """What was committed by whom."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        #: For each change: its name, the thread, the transaction.
        self.made: list[tuple[str, int, int]] = []
        self._transactions: list[Tables] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.made]

    @property
    def threads(self) -> set[int]:
        return {thread for _, thread, _ in self.made}

    @property
    def transactions(self) -> int:
        return len({transaction for _, _, transaction in self.made})

    def change(self, name: str, before: Callable[[], object] = lambda: None) -> Callable[[Tables], None]:
        def change(tables: Tables) -> None:
            before()
            self._transactions.append(tables)  # which keeps its identity from being used again
            self.made.append((name, threading.get_ident(), id(tables)))
            tables.save_counter(name, 1)

        return change

    def begin(self, name: str, before: Callable[[], object] = lambda: None) -> asyncio.Future[str]:
        return self.commits.begin(self.change(name, before), lambda error: _result(name, error))


def _result(name: str, error: BaseException | None) -> str:
    if error is not None:
        raise error
    return name


def _fail() -> None:
    raise StorageError("full")


Scenario = Callable[[Bench], Coroutine[Any, Any, None]]


def play(path: Path, scenario: Scenario) -> None:
    async def main() -> None:
        bench = Bench(path)
        try:
            async with asyncio.timeout(60):
                await scenario(bench)
        finally:
            bench.writer.stop()
            bench.database.close()

    asyncio.run(main())


def test_changes_of_one_turn_share_a_transaction_on_the_loops_thread(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        found = await asyncio.gather(*(bench.begin(str(number)) for number in range(10)))
        assert found == bench.names == [str(number) for number in range(10)]
        assert (bench.transactions, bench.threads) == (1, {threading.get_ident()})
        assert bench.on_disk() == set(found)

    play(tmp_path, scenario)


def test_a_future_is_done_only_when_its_change_is_on_disk(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        for name in "abc":
            future = bench.begin(name)
            future.add_done_callback(lambda done: seen.append(done.result() in bench.on_disk()))
            assert not future.done()
            await future

    seen: list[bool] = []
    play(tmp_path, scenario)
    assert seen == [True] * 3


def test_after_a_slow_commit_the_other_thread_commits_until_it_is_quick(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        slow = lambda: time.sleep(2 * wanted.SLOW_SECONDS)  # noqa: E731
        await bench.begin("first", slow)
        go_on = threading.Event()
        waiting = bench.begin("second", lambda: go_on.wait(30))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done(), "the loop goes on while the other thread writes"
        rest = asyncio.gather(*(bench.begin(f"rest {number}") for number in range(5)))
        go_on.set()
        await asyncio.gather(waiting, rest)
        here = threading.get_ident()
        assert [thread == here for name, thread, _ in bench.made if name in ("first", "second")] == [True, False]
        assert bench.names[:3] == ["first", "second", "rest 0"]
        assert len({transaction for name, _, transaction in bench.made if name.startswith("rest")}) == 1
        while bench.made[-1][1] != here:
            await bench.begin("again")

    play(tmp_path, scenario)


def test_while_the_other_thread_is_at_work_changes_are_left_to_it(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        begun, go_on = threading.Event(), threading.Event()

        def wait() -> None:
            begun.set()
            go_on.wait(30)

        bench.writer.submit(bench.change("long", wait))
        assert await asyncio.to_thread(begun.wait, 30)
        after = bench.begin("after")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not after.done()
        go_on.set()
        await after
        assert bench.names == ["long", "after"]
        assert threading.get_ident() not in bench.threads

    play(tmp_path, scenario)


def test_what_is_written_later_goes_with_the_next_that_somebody_waits_for(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.commits.later(bench.change("note"))
        await bench.begin("awaited")
        assert bench.names == ["note", "awaited"]
        assert bench.transactions == 1

    play(tmp_path, scenario)


def test_what_is_written_later_is_written_if_nothing_else_is(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.commits.later(bench.change("note"))
        assert bench.on_disk() == set()
        while bench.on_disk() != {"note"}:
            await asyncio.sleep(0.001)

    play(tmp_path, scenario)


def test_closing_writes_what_was_to_be_written_later(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.commits.later(bench.change("note"))
        bench.commits.close()
        bench.writer.stop()
        assert bench.on_disk() == {"note"}

    play(tmp_path, scenario)


def test_closing_while_the_other_thread_writes_leaves_it_the_rest_in_order(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        go_on = threading.Event()
        await bench.begin("slow", lambda: time.sleep(2 * wanted.SLOW_SECONDS))
        first = bench.begin("first", lambda: go_on.wait(30))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        bench.commits.later(bench.change("note"))
        bench.commits.close()
        go_on.set()
        bench.writer.stop()
        assert bench.on_disk() == {"slow", "first", "note"}
        assert bench.names == ["slow", "first", "note"]
        assert await first == "first"

    play(tmp_path, scenario)


def test_one_failure_fails_all_of_the_transaction_and_no_other(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        wanted = (bench.begin("a"), bench.begin("b", _fail), bench.begin("c"))
        found = await asyncio.gather(*wanted, return_exceptions=True)
        assert [str(each) for each in found] == ["full"] * 3
        assert bench.on_disk() == set()
        assert await bench.begin("d") == "d"
        assert bench.on_disk() == {"d"}

    play(tmp_path, scenario)


def test_what_follows_a_change_is_done_even_if_who_waited_has_gone(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        followed: list[BaseException | None] = []
        waiter = bench.commits.begin(bench.change("a"), followed.append)
        waiter.cancel()
        await bench.begin("b")
        assert followed == [None]
        assert bench.on_disk() == {"a", "b"}

    play(tmp_path, scenario)


def test_a_bug_in_what_follows_is_told_to_who_waits_and_to_nobody_else(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        broken = bench.commits.begin(bench.change("a"), lambda error: 1 / 0)
        assert await bench.begin("b") == "b"
        with pytest.raises(ZeroDivisionError):
            await broken

    play(tmp_path, scenario)


def test_after_the_stop_everything_is_refused(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.writer.stop()
        with pytest.raises(StorageError, match="stopping"):
            await bench.begin("a")

    async def main() -> None:
        bench = Bench(tmp_path)
        await scenario(bench)
        bench.database.close()

    asyncio.run(main())

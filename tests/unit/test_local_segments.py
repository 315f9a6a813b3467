"""Large payloads stay in the redo log: they are read there, after any end, and a segment goes when none is needed."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from local_bench import TOPIC, Bench, eventually, payload, run, running, set_up

from transports.local.errors import BrokerError, NotFoundError, UnavailableError
from transports.local.model import Delivery
from transports.local.storage import gathering, redo, tidying, wanted
from transports.local.storage.entries import HEAD_BYTES, first_head
from transports.local.storage.redo import RedoLog
from transports.local.storage.segments import Place, Segments, numbers

IDENTITY = 99
LARGE = bytes(redo.LARGE_BYTES)


class Log:
    """A log, and which segments are said to be needed."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "broker.db"
        self.needed: set[int] = set()
        self.log = self.opened()

    def opened(self) -> RedoLog:
        return RedoLog(Segments(self.database), IDENTITY, lambda: self.needed)

    def append(self, *bodies: bytes) -> list[Place]:
        places = self.log.append([[each] for each in bodies])
        assert places is not None
        return places

    def anew(self) -> None:
        self.log.begin_anew(self.log.last + 1)

    def size(self, number: int) -> int:
        return self.log.segments.path(number).stat().st_size

    def redone(self, after: int) -> list[bytes]:
        again = self.opened()
        try:
            return again.read(after)
        finally:
            again.close()

    def there(self) -> list[int]:
        return numbers(self.database)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    monkeypatch.setattr(redo, "FULL_BYTES", 5 * len(LARGE))
    found = Log(tmp_path)
    yield found
    found.log.close()


class TestLog:
    def test_places_are_where_it_was_said(self, log: Log) -> None:
        bodies = [b"one", LARGE + b"two", b"three" * 1000]
        places = log.append(*bodies)
        assert [log.log.segments.read(place, len(body)) for place, body in zip(places, bodies, strict=True)] == bodies

    def test_small_entries_are_written_over(self, log: Log) -> None:
        log.append(b"one")
        log.anew()
        assert log.append(b"two") == [Place(1, HEAD_BYTES)]
        assert log.redone(1) == [b"two"]

    def test_behind_a_large_one_it_goes_on(self, log: Log) -> None:
        (first,) = log.append(LARGE)
        log.anew()
        (second,) = log.append(b"two")
        assert (second.segment, second.offset) == (first.segment, first.offset + len(LARGE) + HEAD_BYTES)
        assert log.log.segments.read(first, len(LARGE)) == LARGE
        assert log.redone(2) == [b"two"]
        assert log.redone(1) == [], "the tables lack what was synced between: it is of another past"

    def test_what_was_synced_between_leaves_a_gap(self, log: Log) -> None:
        log.append(LARGE, b"two")
        log.anew()
        log.anew()
        log.append(b"five")
        log.append(b"six")
        assert log.redone(4) == [b"five", b"six"]
        assert log.redone(5) == [b"six"]
        assert log.redone(6) == []

    def test_a_full_one_that_is_needed_stays(self, log: Log) -> None:
        assert not log.log.is_full
        places = [place for _ in range(5) for place in log.append(LARGE)]
        assert log.log.is_full
        assert log.log.append([[b"more"]]) is None
        log.needed.add(1)
        log.anew()
        assert not log.log.is_full
        assert log.append(b"more") == [Place(2, HEAD_BYTES)]
        assert [log.log.segments.read(place, len(LARGE)) for place in places] == [LARGE] * 5
        assert log.there() == [1, 2]
        assert log.redone(6) == [b"more"]

    def test_a_full_one_of_small_entries_is_written_over(self, log: Log) -> None:
        while not log.log.is_full:
            log.append(b"small")
        log.anew()
        log.append(b"more")
        assert log.there() == [1]

    def test_what_is_needed_no_more_is_used_again_and_its_number_is_not(self, log: Log) -> None:
        for _ in range(5):
            log.append(LARGE)
        size = log.size(1)
        log.anew()
        log.append(*[LARGE] * 5)
        log.anew()
        assert log.there() == [2, 3]
        assert log.size(3) == size
        assert log.redone(log.log.last) == [], "what it was says nothing any more"
        log.append(b"new")
        assert log.redone(log.log.last - 1) == [b"new"]
        log.needed |= {2, 3}
        log.append(*[LARGE] * 5)
        log.anew()
        assert log.there() == [2, 3, 4]
        log.needed.clear()
        log.log.tidy()
        assert (log.log.segments.numbers, log.log.segments.doomed) == ([4], [3]), "one is left for the next"
        log.log.segments.remove_one()
        assert log.there() == [2, 4]

    def test_one_that_was_to_be_used_again_and_is_gone_is_done_without(self, log: Log) -> None:
        log.append(*[LARGE] * 5)
        log.anew()
        log.log.tidy()
        log.log.segments.path(1).unlink()
        log.append(*[LARGE] * 5)
        log.anew()
        assert log.append(b"more") == [Place(3, HEAD_BYTES)]

    def test_one_that_is_gone_already_need_not_be_removed(self, log: Log) -> None:
        log.needed |= {1, 2}
        for _ in range(2):
            log.append(*[LARGE] * 5)
            log.anew()
        log.needed.clear()
        log.log.segments.path(1).unlink()
        log.log.tidy()
        assert log.log.segments.doomed == [1]
        log.log.segments.remove_one()
        assert log.there() == [2, 3]

    def test_a_number_that_was_set_aside_is_not_used_again(self, log: Log) -> None:
        (log.database.parent / "broker.db-redo-41.foreign-20260101T000000Z").touch()
        again = log.opened()
        again.read(0)
        again.begin_anew(1)
        assert log.there() == [1, 42]
        again.close()

    def test_a_start_begins_another(self, log: Log) -> None:
        log.append(LARGE)
        again = log.opened()
        assert again.append([[b"early"]]) is None
        again.read(0)
        again.begin_anew(1)
        assert again.append([[b"next"]]) == [Place(2, HEAD_BYTES)]
        again.close()

    def test_where_none_can_be_begun_nothing_is_appended_until_it_can(
        self, log: Log, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def full() -> int:
            raise OSError(28, "No space left on device")

        places = log.append(*[LARGE] * 5)
        with monkeypatch.context() as patched:
            patched.setattr(log.log.segments, "add", full)
            log.anew()
            assert "cannot begin another segment of the redo log: No space left on device" in caplog.text
            assert log.log.append([[b"more"]]) is None
            assert not log.log.is_full, "a transaction would not help"
            log.anew()
        assert log.log.segments.read(places[0], len(LARGE)) == LARGE
        log.anew()
        assert log.append(b"more") == [Place(2, HEAD_BYTES)]

    def test_what_could_not_be_synced_is_not_written_over_if_there_is_something_large(
        self, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(file: int) -> None:
            raise OSError(5, "Input/output error")

        (place,) = log.append(LARGE)
        with monkeypatch.context() as patched:
            patched.setattr(redo, "_sync", refuse)
            assert log.log.append([[b"lost"]]) is None
        log.needed.add(1)
        log.anew()
        log.append(b"next")
        assert log.log.segments.read(place, len(LARGE)) == LARGE
        assert log.redone(log.log.last - 1) == [b"next"]

    def test_a_new_name_is_on_disk_before_anything_is_written_to_it(
        self, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[list[int]] = []
        monkeypatch.setattr("transports.local.storage.segments.sync_folder", lambda folder: synced.append(log.there()))
        for _ in range(3):
            log.append(*[LARGE] * 5)
            log.anew()
        assert synced == [[1, 2], [2, 3], [3, 4]]

    def test_what_is_not_there_is_an_error(self, log: Log) -> None:
        (place,) = log.append(b"something")
        with pytest.raises(OSError, match="it ends before that"):
            log.log.segments.read(place._replace(offset=10**8), 1)
        with pytest.raises(FileNotFoundError):
            log.log.segments.read(Place(7, 0), 1)

    def test_who_cannot_be_asked_what_is_needed_keeps_everything(
        self, log: Log, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def unreadable() -> set[int]:
            raise BrokerError("The broker cannot read.")

        monkeypatch.setattr(log.log, "_needed", unreadable)
        for _ in range(3):
            log.append(*[LARGE] * 5)
            log.anew()
        assert log.there() == [1, 2, 3, 4]
        assert "cannot tell which segments of the redo log are needed: The broker cannot read." in caplog.text

    def test_other_files_are_none(self, log: Log) -> None:
        for name in ("broker.db-redo-2.foreign-x", "broker.db-redo-x", "other.db-redo-3", "broker.db-redo"):
            (log.database.parent / name).touch()
        assert log.there() == [1]


def body(number: int) -> bytes:
    return b"%06d" % number * 3000


async def publish(bench: Bench, *ids: int) -> None:
    """Publish each by itself."""
    for each in ids:
        await bench.publish(body(each))


async def expect(bench: Bench, *ids: int) -> None:
    """Take these, in this order."""
    for each in ids:
        assert (await bench.take()).message.payload == payload(body(each))


async def settle_most(bench: Bench, held: Sequence[Delivery]) -> None:
    """Leave one of each four."""
    for place, delivery in enumerate(held):
        if place % 4:
            await bench.settle(delivery)


def payloads_in_tables(bench: Bench) -> int:
    sql = "SELECT count(payload) FROM bundles"
    return int(bench.database._reader.execute(sql).fetchone()[0])


class TestEngine:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have four messages fill a segment, of which one is little; look at it often; the disk is quick."""
        monkeypatch.setattr(wanted, "SLOW_SECONDS", 60)
        monkeypatch.setattr(redo, "FULL_BYTES", 4 * len(body(0)))
        monkeypatch.setattr(gathering, "LITTLE_BYTES", len(payload(body(0))))
        monkeypatch.setattr(tidying, "TIDY_SECONDS", 0.01)

    def test_large_ones_are_not_in_the_tables_and_small_ones_are(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path) as bench:
                await publish(bench, 1)
                await bench.publish(b"small")
                assert payloads_in_tables(bench) == 1
                await expect(bench, 1)
                assert (await bench.take()).message.payload == payload(b"small")

        run(scenario())

    def test_they_are_there_after_a_restart(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path) as bench:
                await publish(bench, *range(10))
            async with running(tmp_path) as bench:
                assert payloads_in_tables(bench) == 0
                for number in range(10):
                    delivery = await bench.take()
                    assert delivery.message.payload == payload(body(number))
                    await bench.settle(delivery)
                await eventually(lambda: len(numbers(tmp_path / "broker.db")) <= 2)

        run(scenario())

    def test_what_little_is_left_comes_to_lie_in_the_tables(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path) as bench:
                await publish(bench, *range(20))
                await settle_most(bench, [await bench.take() for _ in range(20)])
                await eventually(lambda: len(numbers(tmp_path / "broker.db")) <= 2)
                assert payloads_in_tables(bench) >= 4
            async with running(tmp_path) as bench:
                bench.attached.dispatcher.backlog.lapse(asyncio.get_running_loop().time() + 700)
                await expect(bench, *range(0, 20, 4))

        run(scenario())

    def test_it_is_gathered_though_nothing_else_happens(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tidying, "TIDY_SECONDS", 3600)
        monkeypatch.setattr(gathering, "_TOGETHER", 2)

        async def scenario() -> None:
            async with set_up(tmp_path) as bench:
                await publish(bench, *range(20))
                await settle_most(bench, [await bench.take() for _ in range(20)])
                monkeypatch.setattr(tidying, "TIDY_SECONDS", 0.01)
                bench.engine._ledger._commits._debt._tidying._look()
                await eventually(lambda: payloads_in_tables(bench) == 4)
                await eventually(lambda: len(numbers(tmp_path / "broker.db")) <= 2)

        run(scenario())

    def test_what_is_more_stays_where_it_is(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path) as bench:
                await publish(bench, *range(20))
                looks = bench.engine._ledger._commits._debt._tidying._gathering
                await eventually(lambda: looks.is_done and len(looks._needed) >= 4)
                assert payloads_in_tables(bench) == 0
                assert len(numbers(tmp_path / "broker.db")) >= 5

        run(scenario())

    def test_a_missing_segment_is_damage(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path) as bench:
                await publish(bench, *range(6))
            (tmp_path / "broker.db-redo-1").unlink()
            async with running(tmp_path) as bench:
                assert "broker.db-redo-1 is not there or too short" in caplog.text
                with pytest.raises(NotFoundError):
                    bench.engine.catalog.topic(TOPIC.name)
            aside = sorted(each.name for each in tmp_path.glob("broker.db.damaged-*"))
            assert [each[len(aside[0]) :] for each in aside] == ["", "-redo-2"]

        run(scenario())

    def test_what_cannot_be_read_is_not_delivered(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path) as bench:
                await publish(bench, *range(8))
                hidden = (tmp_path / "broker.db-redo-1").rename(tmp_path / "hidden")
                with pytest.raises(UnavailableError):
                    await bench.take()
                hidden.rename(tmp_path / "broker.db-redo-1")
                await expect(bench, 0)

        run(scenario())

    def test_what_cannot_be_read_is_not_gathered_and_others_are(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path) as bench:
                await publish(bench, *range(12))
                held = [await bench.take() for _ in range(12)]
                hidden = (tmp_path / "broker.db-redo-1").rename(tmp_path / "hidden")
                await settle_most(bench, held)
                await eventually(lambda: payloads_in_tables(bench) == 1)
                assert "what is needed of" in caplog.text
                hidden.rename(tmp_path / "broker.db-redo-1")
                await bench.publish(b"something changes")
                await eventually(lambda: payloads_in_tables(bench) == 3)

        run(scenario())

    def test_many_short_runs_leave_few_files(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path) as bench:
                await publish(bench, 0)
            for number in range(1, 20):
                async with running(tmp_path) as bench:
                    await publish(bench, number)
                assert len(numbers(tmp_path / "broker.db")) <= 3
            async with running(tmp_path) as bench:
                await expect(bench, *range(20))

        run(scenario())

    def test_damage_to_what_nothing_reads_is_none(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path) as bench:
                await publish(bench, *range(8))
            with (tmp_path / "broker.db-redo-1").open("r+b") as file:
                file.write(b"\xff" * 20)
            async with running(tmp_path) as bench:
                await expect(bench, *range(8))

        run(scenario())

    def test_an_old_copy_has_what_is_of_its_future_set_aside(self, tmp_path: Path) -> None:
        """And when the newer database is put back with it, everything is there."""

        def keep(name: str) -> None:
            (tmp_path / name).mkdir()
            for each in tmp_path.glob("broker.db*"):
                shutil.copy(each, tmp_path / name)

        async def publish_some(*some: int) -> None:
            async with running(tmp_path) as bench:
                await publish(bench, *some)

        async def scenario() -> None:
            async with set_up(tmp_path) as bench:
                await publish(bench, *range(8))
            keep("old")
            await publish_some(*range(8, 16))
            await publish_some(*range(16, 24))
            keep("new")
            for name in ("broker.db", "broker.db-wal", "broker.db-shm"):
                (tmp_path / name).unlink(missing_ok=True)
            shutil.copy(tmp_path / "old/broker.db", tmp_path)
            new = set(numbers(tmp_path / "new/broker.db"))
            await publish_some(*range(100, 108))
            aside = {int(each.name.split("-")[2].split(".")[0]) for each in tmp_path.glob("*.foreign-*")}
            # One that was begun last may have nothing yet.
            written = {each for each in new if first_head(tmp_path / f"new/broker.db-redo-{each}") is not None}
            assert aside == written - set(numbers(tmp_path / "old/broker.db"))
            assert len(aside) >= 2
            assert not set(numbers(tmp_path / "broker.db")) & aside
            async with running(tmp_path) as bench:
                await expect(bench, *range(8), *range(100, 108))

        run(scenario())

    def test_those_of_another_database_are_set_aside(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path) as bench:
                await publish(bench, *range(10))
            for name in ("broker.db", "broker.db-wal", "broker.db-shm"):
                (tmp_path / name).unlink(missing_ok=True)
            before = numbers(tmp_path / "broker.db")
            async with set_up(tmp_path) as bench:
                await publish(bench, 1)
                await expect(bench, 1)
            assert len(list(tmp_path.glob("broker.db-redo-*.foreign-*"))) == len(before)

        run(scenario())

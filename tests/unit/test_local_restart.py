"""What the broker takes up after a restart, and dead letters: engines on real files."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from local_bench import DAY_SECONDS, DEAD, GRAVEYARD, SUBSCRIPTION, eventually, payload, run, running, set_up
from local_tables import refuse_to_write, stored

from transports.local.clock import now_us
from transports.local.model import DeadLetterPolicy
from transports.local.storage.bundles import Part
from transports.local.storage.tables import Tables


class TestAfterARestart:
    def test_leases_go_on_to_their_ends(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path) as bench:
                await bench.publish(b"leased", b"extended", b"given back")
                await bench.take(seconds=600)
                extended, given_back = await bench.take(seconds=10), await bench.take(seconds=600)
                bench.engine.modify_ack_deadline(SUBSCRIPTION.name, [extended.ack_id], 300)
                bench.engine.modify_ack_deadline(SUBSCRIPTION.name, [given_back.ack_id], 0)
                await asyncio.sleep(0)
            async with running(tmp_path) as bench:
                assert (await bench.take()).message.payload == payload(b"given back")
                now = bench.attached.dispatcher.now
                ends = bench.attached.dispatcher.backlog.lease_ends([1, 2])
                assert [pytest.approx(due - now, abs=60) for _, due in ends] == [600, 300]

        run(main())

    def test_a_clock_that_was_set_back_makes_no_lease_longer_than_any(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            async with set_up(tmp_path) as bench:
                await bench.publish(b"leased")
                await bench.take()
            back = time.time_ns() - 10**9 * DAY_SECONDS
            monkeypatch.setattr(time, "time_ns", lambda: back)
            async with running(tmp_path) as bench:
                ((_, due),) = bench.attached.dispatcher.backlog.lease_ends([1])
                assert due - bench.attached.dispatcher.now <= 600

        run(main())

    def test_a_clock_that_was_set_back_meanwhile_makes_no_lease_longer_than_it_was(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            async with set_up(tmp_path) as bench:
                await bench.publish(b"leased")
                await bench.take(seconds=20)
                bench.age(1, 300)
            back = time.time_ns() - 10**9 * DAY_SECONDS
            monkeypatch.setattr(time, "time_ns", lambda: back)
            for _ in range(2):  # what the second writes down is of the time that was set back
                async with running(tmp_path) as bench:
                    ((_, due),) = bench.attached.dispatcher.backlog.lease_ends([1])
                    assert due - bench.attached.dispatcher.now <= 20

        run(main())

    def test_publish_times_do_not_go_back_when_everything_was_acknowledged(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            async with set_up(tmp_path) as bench:
                await bench.publish(b"before")
                before = await bench.take()
                await bench.settle(before)
                # As a kill leaves it, which nothing is written after.
                monkeypatch.setattr(bench.engine._ledger, "close", lambda: None)
            back = time.time_ns() - 10**9 * DAY_SECONDS
            monkeypatch.setattr(time, "time_ns", lambda: back)
            async with running(tmp_path) as bench:
                await bench.publish(b"after")
                assert (await bench.take()).message.published_us >= before.message.published_us

        run(main())

    def test_what_was_leased_until_meanwhile_comes_again_after_a_moment(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path) as bench:
                await bench.publish(b"leased", b"ready")
                await bench.take(seconds=0)
            began = asyncio.get_running_loop().time()
            async with running(tmp_path, grace_seconds=0.3) as bench:
                ((_, due),) = bench.attached.dispatcher.backlog.lease_ends([1])
                assert began + 0.3 <= due <= bench.attached.dispatcher.now + 0.3
                assert (await bench.take()).message.payload == payload(b"ready")
                assert (await bench.take()).message.payload == payload(b"leased")
                assert bench.attached.dispatcher.now >= due

        run(main())

    def test_what_was_given_back_comes_at_once(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path) as bench:
                await bench.publish(b"one")
                # The stop comes in the same turn of the loop.
                bench.engine.modify_ack_deadline(SUBSCRIPTION.name, [(await bench.take()).ack_id], 0)
            async with running(tmp_path, grace_seconds=600) as bench:
                assert (await bench.take()).message.payload == payload(b"one")

        run(main())

    def test_what_did_not_reach_its_consumer_before_the_stop_comes_at_once_as_if_never_delivered(
        self, tmp_path: Path
    ) -> None:
        async def main() -> None:
            async with set_up(tmp_path, dead_letter=DeadLetterPolicy(DEAD.name, 5)) as bench:
                await bench.publish(b"one")
                delivery = await bench.take()
                bench.engine.close()
                bench.engine.undo(bench.attached, [delivery.ack_id])
                bench.engine.finish()
            async with running(tmp_path, grace_seconds=600) as bench:
                assert (await bench.take()).attempt == 1

        run(main())

    def test_what_died_in_the_moment_of_the_stop_is_delivered_to_nobody(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path, dead_letter=DeadLetterPolicy(DEAD.name, 5)) as bench:
                await bench.publish(b"one")
                for _ in range(5):
                    ack_id = (await bench.take(seconds=10)).ack_id
                    bench.engine.modify_ack_deadline(SUBSCRIPTION.name, [ack_id], 0)
            async with running(tmp_path) as bench:
                ((_, due),) = bench.attached.dispatcher.backlog.lease_ends([1])
                bench.attached.dispatcher.backlog.lapse(due)
                bench.attached.dispatcher.pump()
                assert b"one" in (await bench.take(GRAVEYARD.name)).message.payload

        run(main())

    def test_attempts_go_on_being_counted(self, tmp_path: Path) -> None:
        async def main() -> None:
            policy = DeadLetterPolicy(DEAD.name, 5)
            async with set_up(tmp_path, dead_letter=policy) as bench:
                await bench.publish(b"one")
                assert (await bench.take(seconds=0)).attempt == 1
            for attempt in (2, 3, 4, 5):
                async with running(tmp_path) as bench:
                    assert (await bench.take(seconds=0)).attempt == attempt
            async with running(tmp_path) as bench:
                assert b"one" in (await bench.take(GRAVEYARD.name)).message.payload

        run(main())

    def test_a_long_backlog_is_swept_to_its_end(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path) as bench:
                ids = await bench.publish(*(b"x" for _ in range(1000)))
                ids += await bench.publish(*(b"x" for _ in range(1000)))
                await bench.engine.replays.seek_to_time(SUBSCRIPTION.name, now_us() + 1)
                assert len(bench.attached.dispatcher.backlog) == 0
            async with running(tmp_path) as bench:
                assert len(bench.attached.dispatcher.backlog) == 0
                await eventually(lambda: stored(bench.database) == [])

        run(main())

    def test_a_snapshot_that_was_begun_is_swept(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with running(tmp_path) as bench:

                def begin(tables: Tables) -> None:
                    tables.save_counter("keepers", 7)
                    tables.condemn(7)
                    tables.keep([(7, Part(1, 1, 1))])

                bench.writer.submit(begin).result(30)
            async with running(tmp_path) as bench:
                rows = "SELECT count(*) FROM kept"
                await eventually(lambda: bench.database._reader.execute(rows).fetchone() == (0,))

        run(main())


class TestDeadLetters:
    def test_without_their_topic_they_are_delivered_again(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path, dead_letter=DeadLetterPolicy(DEAD.name, 5)) as bench:
                await bench.engine.administration.delete_topic(DEAD.name)
                await bench.publish(b"one")
                for attempt in range(1, 8):
                    delivery = await bench.take()
                    assert delivery.attempt == attempt
                    bench.engine.modify_ack_deadline(SUBSCRIPTION.name, [delivery.ack_id], 0)

        run(main())

    def test_one_that_the_disk_refused_to_forward_is_delivered_again(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path, dead_letter=DeadLetterPolicy(DEAD.name, 5)) as bench:
                await bench.publish(b"one")
                for _ in range(5):
                    delivery = await bench.take()
                    refuse_to_write(bench.database, delivery.attempt == 5)
                    bench.engine.modify_ack_deadline(SUBSCRIPTION.name, [delivery.ack_id], 0)
                again = await bench.take()
                refuse_to_write(bench.database, False)
                assert again.attempt == 6
                await bench.settle(again)

        run(main())

"""What the broker does when nobody asks: engines on real files."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from local_bench import DAY_SECONDS, SUBSCRIPTION, TOPIC, eventually, run, running, set_up
from local_tables import stored

from transports.local.clock import now_us
from transports.local.errors import FailedPreconditionError
from transports.local.model import Snapshot


class TestRetention:
    def test_a_message_that_is_too_old_is_dropped_whether_leased_or_not(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path) as bench:
                old, leased = await bench.publish(b"old", b"leased")
                await bench.take()
                (young,) = await bench.publish(b"young")
                bench.age(old, 601)
                bench.age(leased, 601)
                bench.look()
                await eventually(lambda: len(bench.attached.dispatcher.backlog) == 1)
                await eventually(lambda: stored(bench.database) == [young])
                assert (await bench.take()).message.id == young

        run(main())

    def test_what_was_acknowledged_and_kept_is_dropped_too(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path, retain_acked=True) as bench:
                (old,) = await bench.publish(b"old")
                await bench.settle(await bench.take())
                assert stored(bench.database) == [old]
                bench.age(old, 601)
                bench.look()
                await eventually(lambda: stored(bench.database) == [])

        run(main())

    def test_what_a_topic_retains_is_dropped_in_time(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path, topic=replace(TOPIC, retention_seconds=700)) as bench:
                (old,), (young,) = await bench.publish(b"old"), await bench.publish(b"young")
                for _ in range(2):
                    await bench.settle(await bench.take())
                bench.age(old, 701)
                bench.look()
                await eventually(lambda: stored(bench.database) == [young])

        run(main())


class TestExpiration:
    def test_a_subscription_that_nobody_used_is_deleted(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path) as bench:
                attached = bench.attached
                attached.used_us = now_us() - (DAY_SECONDS + 1) * 1_000_000
                bench.engine._housekeeper._started_us = 0
                bench.look()
                await eventually(lambda: not bench.engine.catalog.has(attached))

        run(main())

    @pytest.mark.parametrize("why", ["never", "used", "waited for", "just started"])
    def test_it_is_not_where_there_is_a_reason(self, tmp_path: Path, why: str) -> None:
        async def main() -> None:
            expiration = None if why == "never" else DAY_SECONDS
            async with set_up(tmp_path, expiration_seconds=expiration) as bench:
                waiting = asyncio.ensure_future(bench.take()) if why == "waited for" else None
                await eventually(lambda: bench.attached.dispatcher.consumers == (waiting is not None))
                bench.engine._housekeeper._started_us = now_us() if why == "just started" else 0
                bench.attached.used_us = now_us() if why == "used" else 0
                bench.look()
                (message,) = await bench.publish(b"one")
                bench.age(message, 601)
                bench.look()
                await eventually(lambda: len(bench.attached.dispatcher.backlog) == 0)
                if waiting is not None:
                    waiting.cancel()

        run(main())

    def test_the_last_use_is_remembered_over_a_restart(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path) as bench:
                used_us = bench.attached.used_us
            async with running(tmp_path) as bench:
                assert bench.attached.used_us == used_us > 0

        run(main())

    def test_a_snapshot_ends(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path) as bench:
                replays, catalog = bench.engine.replays, bench.engine.catalog
                name = "projects/p/snapshots/one"
                await replays.create_snapshot(Snapshot(name, "", 0), SUBSCRIPTION.name)
                known = catalog.snapshot(name)
                known.settings = replace(known.settings, expires_us=now_us())
                bench.engine._housekeeper.watch_snapshot(known)
                await eventually(lambda: catalog.all_snapshots() == [])

        run(main())

    def test_a_snapshot_that_would_end_at_once_is_refused(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path, retention_seconds=10 * DAY_SECONDS) as bench:
                (old,) = await bench.publish(b"old")
                bench.age(old, 7 * DAY_SECONDS - 3000)
                with pytest.raises(FailedPreconditionError, match="less than an hour"):
                    await bench.engine.replays.create_snapshot(
                        Snapshot("projects/p/snapshots/one", "", 0), SUBSCRIPTION.name
                    )

        run(main())

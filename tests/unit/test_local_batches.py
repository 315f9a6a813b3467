"""Batches from the publish to the last acknowledgement: who takes which part of one, and in which order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from batch_bench import OTHER, acknowledge, draft, nothing_left, number_of, publish, sizes, take
from local_bench import GRAVEYARD, SUBSCRIPTION, TOPIC, Bench, eventually, run, running, set_up
from local_tables import refuse_to_write, stored

from transports.local import wire
from transports.local.errors import RequestError
from transports.local.model import DeadLetterPolicy, RetryPolicy, Subscription


class TestFilters:
    def test_each_subscription_gets_its_part_of_a_batch_and_the_batch_goes_with_the_last(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path, filter='attributes.parity = "odd"') as bench:
                other = replace(OTHER, filter='attributes.parity = "even"')
                await bench.engine.administration.create_subscription(other)
                ids = await publish(bench, [draft(each) for each in range(300)])
                assert ids == list(range(ids[0], ids[0] + 300))
                odd, even = await take(bench, 150), await take(bench, 150, OTHER.name)
                assert [number_of(each) for each in odd] == list(range(1, 300, 2))
                assert [number_of(each) for each in even] == list(range(0, 300, 2))
                assert [each.message.id for each in even] == ids[::2]
                await acknowledge(bench, odd)
                assert sizes(bench) == [128, 128, 44]
                await acknowledge(bench, even, OTHER.name)
                nothing_left(bench)

        run(scenario())

    def test_what_no_filter_takes_is_not_stored(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path, filter='attributes.parity = "odd"') as bench:
                ids = await publish(bench, [draft(each) for each in range(10)])
                assert stored(bench.database) == ids[1::2]
                await publish(bench, [draft(each) for each in range(0, 600, 2)])
                assert stored(bench.database) == ids[1::2]
                assert [number_of(each) for each in await take(bench, 5)] == [1, 3, 5, 7, 9]

        run(scenario())

    def test_a_part_of_a_batch_is_counted_and_delivered_after_a_restart(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path, filter='attributes.parity = "odd"') as bench:
                await publish(bench, [draft(each) for each in range(301)])
            async with running(tmp_path) as bench:
                assert len(bench.attached.dispatcher.backlog) == 150
                await publish(bench, [draft(each) for each in range(301, 310)])
                found = await take(bench, 155)
                assert [number_of(each) for each in found] == list(range(1, 310, 2))
                await acknowledge(bench, found)
                nothing_left(bench)

        run(scenario())

    def test_a_seek_brings_back_to_a_filter_its_part_of_what_the_topic_retains(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            topic = replace(TOPIC, retention_seconds=600)
            async with set_up(tmp_path, topic, filter='attributes.parity = "odd"') as bench:
                await publish(bench, [draft(each) for each in range(300)])
                assert len(stored(bench.database)) == 300
                await acknowledge(bench, await take(bench, 150))
                await bench.engine.replays.seek_to_time(SUBSCRIPTION.name, 0)
                assert [number_of(each) for each in await take(bench, 150)] == list(range(1, 300, 2))

        run(scenario())


class TestOrder:
    keys = ("", "A", "", "", "B", "A", "A", "", "B")

    def test_ids_are_in_the_order_of_the_request_with_keys_and_without(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path, ordered=True) as bench:
                ids = await publish(bench, [draft(each, key=key) for each, key in enumerate(self.keys)])
                assert ids == list(range(ids[0], ids[0] + len(self.keys)))
                found = await take(bench, len(self.keys))
                assert sorted((each.message.id, number_of(each)) for each in found) == list(
                    zip(ids, range(len(ids)), strict=True)
                )
                assert [each.message.ordering_key for each in sorted(found, key=number_of)] == list(self.keys)

        run(scenario())

    @pytest.mark.parametrize("restart", [False, True])
    def test_each_key_is_delivered_in_order_one_message_at_a_time(self, tmp_path: Path, restart: bool) -> None:
        async def scenario() -> None:
            drafts = [draft(each, key=("", "A", "B")[each % 3]) for each in range(600)]
            async with set_up(tmp_path, ordered=True) as bench:
                await publish(bench, drafts)
                if not restart:
                    await self.take_all(bench)
            if restart:
                async with running(tmp_path) as bench:
                    await self.take_all(bench)

        run(scenario())

    @staticmethod
    async def take_all(bench: Bench) -> None:
        seen: list[int] = []
        while len(seen) < 600:
            found = await take(bench, 7 if len(seen) < 580 else 1)
            await acknowledge(bench, found)
            seen += map(number_of, found)
        assert sorted(seen) == list(range(600))
        for rest in range(3):
            assert [each for each in seen if each % 3 == rest] == list(range(rest, 600, 3))
        nothing_left(bench)


class TestLargeBatches:
    @pytest.mark.parametrize(("count", "size", "most"), [(1000, 900, 128), (40, 250_000, 1), (2, 5_000_000, 1)])
    def test_a_batch_comes_whole_and_leaves_nothing(self, tmp_path: Path, count: int, size: int, most: int) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path) as bench:
                await publish(bench, [draft(each, size=size) for each in range(count)])
                assert max(sizes(bench)) == most
                assert sum(sizes(bench)) == count
                found = await take(bench, count)
                assert [number_of(each) for each in found] == list(range(count))
                assert {len(each.message.payload) > size for each in found} == {True}
                await acknowledge(bench, found)
                nothing_left(bench)

        run(scenario())

    def test_messages_that_are_handled_one_by_one_backwards_leave_nothing(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path) as bench:
                await publish(bench, [draft(each) for each in range(300)])
                for each in reversed(await take(bench, 300)):
                    await acknowledge(bench, [each])
                nothing_left(bench)

        run(scenario())

    def test_publishing_goes_on_behind_what_has_no_room_in_memory(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path) as bench:
                for start in range(0, 3000, 300):
                    await publish(bench, [draft(each) for each in range(start, start + 300)])
                assert bench.attached.dispatcher.backlog.in_memory <= 1000
                assert len(bench.attached.dispatcher.backlog) == 3000
                found = await take(bench, 2500)
                await publish(bench, [draft(each) for each in range(3000, 3100)])
                found += await take(bench, 600)
                assert [number_of(each) for each in found] == list(range(3100))
                await acknowledge(bench, found)
                nothing_left(bench)

        run(scenario())

    def test_a_batch_that_the_disk_refused_has_not_happened(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path) as bench:
                refuse_to_write(bench.database, True)
                with pytest.raises(RequestError):
                    await publish(bench, [draft(each) for each in range(300)])
                refuse_to_write(bench.database, False)
                nothing_left(bench)
                await publish(bench, [draft(each) for each in range(300, 600)])
                assert [number_of(each) for each in await take(bench, 300)] == list(range(300, 600))

        run(scenario())


class TestDeadLetters:
    def test_some_of_a_batch_go_and_the_rest_is_handled(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            policy = DeadLetterPolicy("projects/p/topics/dead", 5)
            async with set_up(tmp_path, dead_letter=policy, retry=RetryPolicy(0, 0)) as bench:
                await publish(bench, [draft(each) for each in range(200)])
                seen: list[int] = []
                for attempt in range(1, 6):
                    found = await take(bench, 200 if attempt == 1 else 67)
                    assert {each.attempt for each in found} == {attempt}
                    bad = [each for each in found if number_of(each) % 3 == 0]
                    good = [each for each in found if number_of(each) % 3]
                    await acknowledge(bench, good)
                    seen += map(number_of, good)
                    bench.engine.modify_ack_deadline(SUBSCRIPTION.name, [each.ack_id for each in bad], 0)
                letters = await take(bench, 67, GRAVEYARD.name)
                assert sorted(map(number_of, letters)) == list(range(0, 200, 3))
                assert sorted(seen) == [each for each in range(200) if each % 3]
                counts = [wire.read_attributes(each.message.payload) for each in letters]
                assert {each["CloudPubSubDeadLetterSourceDeliveryCount"] for each in counts} == {"5"}
                await eventually(lambda: len(bench.attached.dispatcher.backlog) == 0)
                await acknowledge(bench, letters, GRAVEYARD.name)
                nothing_left(bench)

        run(scenario())


def test_a_subscription_that_is_deleted_leaves_to_the_other_its_part(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with set_up(tmp_path) as bench:
            other: Subscription = replace(OTHER, filter='attributes.parity = "even"')
            await bench.engine.administration.create_subscription(other)
            await publish(bench, [draft(each) for each in range(300)])
            number = bench.attached.number
            await bench.engine.administration.delete_subscription(SUBSCRIPTION.name)
            await eventually(lambda: bench.database.tally(number).total == 0)
            found = await take(bench, 150, OTHER.name)
            assert [number_of(each) for each in found] == list(range(0, 300, 2))
            await acknowledge(bench, found, OTHER.name)
            await eventually(lambda: not stored(bench.database))
            nothing_left(bench)

    run(scenario())

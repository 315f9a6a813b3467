"""What is to be done at a time is done then, in order, and once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from transports.local.agenda import Agenda
from transports.local.clock import now_us


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


class TestAgenda:
    def test_things_are_done_in_the_order_of_their_times_and_once(self) -> None:
        async def main() -> None:
            done: list[str] = []

            async def do(item: str) -> None:
                done.append(item)

            agenda: Agenda[str] = Agenda(do)
            agenda.start()
            now = now_us()
            for item, after_us in [
                ("far", 10**12),
                ("third", 60_000),
                ("second", 30_000),
                ("first", 0),
                ("third", 90_000),
            ]:
                agenda.note(item, now + after_us)
            agenda.note("far", now + 120_000)
            await eventually(lambda: len(done) == 4)
            agenda.stop()
            assert done == ["first", "second", "third", "far"]

        asyncio.run(main())

    def test_what_was_forgotten_is_not_done_and_not_held_on_to(self) -> None:
        async def main() -> None:
            done: list[object] = []

            async def do(item: object) -> None:
                done.append(item)

            agenda: Agenda[object] = Agenda(do)
            agenda.start()
            items = [object() for _ in range(5000)]
            for item in items:
                agenda.note(item, now_us() + 10**12)
                agenda.forget(item)
            agenda.note("last", now_us())
            await eventually(lambda: done == ["last"])
            agenda.stop()
            assert len(agenda._heap) < 200

        asyncio.run(main())

    def test_what_is_noted_again_and_again_does_not_pile_up(self) -> None:
        async def main() -> None:
            async def do(item: str) -> None:
                raise AssertionError(item)

            agenda: Agenda[str] = Agenda(do)
            for number in range(5000):
                agenda.note("far", now_us() + 10**12 - number)
            assert len(agenda._heap) < 200

        asyncio.run(main())

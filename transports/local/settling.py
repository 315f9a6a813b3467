"""Acknowledging: messages leave memory at once, and the tables soon.

Until that is confirmed they are *under way*: who acknowledges them once more waits for the same confirmation, and if
the disk refuses they come back as they were.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from transports.local.ackids import AckId
from transports.local.catalog import Attached
from transports.local.dispatch.entries import Entry
from transports.local.housekeeping import Housekeeper
from transports.local.ledger import Ledger
from transports.local.promises import Prompt
from transports.local.storage.bundles import bits_by_bundle
from transports.local.storage.operations import Acknowledge

R = TypeVar("R")

#: An ack id as it was sent, and as it is read: one of an earlier subscription of the same name as None.
Asked = tuple[str, AckId | None]


class Settling:
    """Acknowledgements under way."""

    def __init__(self, ledger: Ledger, housekeeper: Housekeeper) -> None:
        self._ledger = ledger
        self._housekeeper = housekeeper
        self._under_way: dict[AckId, asyncio.Future[None]] = {}
        self._waiting: set[asyncio.Task[list[str]]] = set()

    def acknowledge(self, attached: Attached, asked: Sequence[Asked]) -> asyncio.Future[list[str]]:
        """Begin to remove messages; the future, which may be cancelled, is what of the ack ids is good no longer."""
        if not attached.gate.locked():
            return self._acknowledge(attached, asked)
        waiting = asyncio.get_running_loop().create_task(self._acknowledge_later(attached, asked))
        self._waiting.add(waiting)
        waiting.add_done_callback(self._waiting.discard)
        return asyncio.shield(waiting)

    async def _acknowledge_later(self, attached: Attached, asked: Sequence[Asked]) -> list[str]:
        async with attached.gate:
            done = self._acknowledge(attached, asked)
        return await done

    def _acknowledge(self, attached: Attached, asked: Sequence[Asked]) -> asyncio.Future[list[str]]:
        settled: dict[AckId, Entry] = {}
        others: list[Asked] = []
        settle, now = attached.dispatcher.backlog.settle, attached.dispatcher.now
        for each in asked:
            ack_id = each[1]
            if ack_id is not None and (entry := settle(ack_id.message, ack_id.token, now)) is not None:
                settled[ack_id] = entry
            else:
                others.append(each)
        # Who acknowledges once more what is on its way to the disk waits for it, too.
        again = {ack_id for _, ack_id in others if ack_id in self._under_way}
        under_way = {self._under_way[ack_id] for ack_id in again}
        good = again | settled.keys()
        stale = [text for text, ack_id in others if ack_id not in good]
        if settled:
            answer = self._begin_to_settle(attached, settled, stale)
            if not under_way:
                return answer
            answer.cancel()  # all of it is waited for together
            under_way.add(self._under_way[next(iter(settled))])
        return asyncio.ensure_future(_all_of(under_way, stale)) if under_way else _done(stale)

    def _begin_to_settle(
        self, attached: Attached, settled: Mapping[AckId, Entry], stale: list[str]
    ) -> asyncio.Future[list[str]]:
        """Begin to remove from the disk what was removed from memory; the future is ``stale``."""
        backlog, keep, number = attached.dispatcher.backlog, attached.settings.retain_acked, attached.number
        messages, snapshot = settled.values(), attached.snapshot
        # Whoever asked may cancel what he waits for, and nobody else's.
        answer: asyncio.Future[list[str]] = Prompt()

        def ended() -> None:
            for ack_id in settled:
                del self._under_way[ack_id]

        def confirmed() -> None:
            ended()
            if not answer.done():
                answer.set_result(stale)

        def gone() -> None:
            backlog.settled([each.message_id for each in messages])
            if keep:
                self._housekeeper.expect_expiry(attached, min(each.published_us for each in messages))

        def refused(error: BaseException) -> None:
            ended()
            backlog.restore(each.pending() for each in messages)
            attached.dispatcher.pump()
            if not answer.done():
                answer.set_exception(error)

        operation = Acknowledge(number, bits_by_bundle(messages), keep, snapshot, self._ledger.clock.now_us())
        # Without exactly-once delivery nobody is promised that what he has acknowledged does not come again.
        lasting = attached.settings.exactly_once
        settling = self._ledger.operate(operation, confirmed, gone, refused, lasting=lasting)
        settling.add_done_callback(lambda done: done.exception())  # the writer has logged it
        self._under_way.update(dict.fromkeys(settled, settling))
        return answer


def _done(result: R) -> asyncio.Future[R]:
    future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
    future.set_result(result)
    return future


async def _all_of(under_way: Iterable[asyncio.Future[Any]], result: R) -> R:
    """Return a result when everything has ended well; raise what one of it raised otherwise."""
    await asyncio.wait(under_way)
    for each in under_way:
        each.result()
    return result

"""The local broker's tables of who needs what, changed together with the model of them."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from local_tables import SUBSCRIPTION
from needs_model import Model, Stored

from transports.local.model import Draft
from transports.local.storage.bundles import bits_by_bundle, bundled
from transports.local.storage.database import Database
from transports.local.storage.records import Record
from transports.local.storage.tables import Tables

#: Numbers of two subscriptions and a topic; those of snapshots are higher.
ORDERED, PLAIN, TOPIC = 1, 2, 3

#: Says of an id whether that message is among those which are meant.
Share = Callable[[int], bool]


class NeedsBench:
    """A database and a model which are changed alike."""

    def __init__(self) -> None:
        self._path = Path(tempfile.mkdtemp(prefix="needs-"))
        self.database = self._open()
        self.model = Model()
        self.next_id, self.next_snapshot = 1, TOPIC + 1
        self.snapshots: list[int] = []
        self._token = 1 << 41
        with self.database.transaction() as tables:
            for number in (ORDERED, PLAIN):
                tables.save_subscription(number, replace(SUBSCRIPTION, name=f"projects/p/subscriptions/{number}"))

    def close(self) -> None:
        self.database.close()
        shutil.rmtree(self._path)

    def reopen(self) -> None:
        self.database.close()
        self.database = self._open()

    def publish(self, keys: list[str], size: int, first: Share, second: Share, retain: bool) -> None:
        """Publish as the engine does: what nobody wants is left blank, what takes nothing of a bundle has no row."""
        ids = range(self.next_id, self.next_id + len(keys))
        self.next_id = ids.stop
        wanted = {ORDERED: set(filter(first, ids)), PLAIN: set(filter(second, ids))}
        keepers = [*self.snapshots, *([TOPIC] if retain else [])]
        anybody = set(ids) if keepers else wanted[ORDERED] | wanted[PLAIN]
        drafts = [Draft(b"%d-" % each + b"x" * size, {}, key) for each, key in zip(ids, keys, strict=True)]
        drafts = [draft if each in anybody else Draft(b"") for each, draft in zip(ids, drafts, strict=True)]
        found = bundled(ids.start, ids.start * 1000, drafts)
        with self.database.transaction() as tables:
            tables.add_bundles(each for each in found if each.payload)
            for number, ids_of in wanted.items():
                taken = [(each, each.part(ids_of)) for each in found]
                tables.add_to_backlogs(
                    (number, part, each.ordering_key if number == ORDERED else "") for each, part in taken if part.bits
                )
            tables.keep((keeper, each.whole) for each in found for keeper in keepers)
        self.model.bundles.update({each.first: Stored.of(each) for each in found})
        for number, ids_of in wanted.items():
            self.model.waiting[number] |= ids_of
        for keeper in keepers:
            self.model.kept[keeper] |= set(ids)

    def deliver(self, number: int, share: Share, seconds: int) -> None:
        chosen = [each for each in self.model.seen(number) if share(each.message_id)]
        delivered = []
        for each in chosen:
            self._token += 1
            delivered.append(each._replace(token=self._token, attempts=each.attempts + 1))
        with self.database.transaction() as tables:
            tables.note_deliveries(number, delivered, seconds)
        for each in delivered:
            if each.message_id in self.model.waiting[number]:
                self.model.records[number][each.message_id] = Record(each.token, seconds, each.attempts)

    def settle(self, number: int, share: Share, keep: bool) -> None:
        """Acknowledge some, and some that are not waited for any more."""
        chosen = [each for each in self.model.seen(number) if share(each.message_id)]
        with self.database.transaction() as tables:
            tables.settle(number, bits_by_bundle(chosen), keep=keep, snapshot=None)
        self.model.settle(number, (each.message_id for each in chosen), keep=keep)

    def set_floor(self, number: int, floor: int) -> None:
        self.model.floors[number] = floor
        with self.database.transaction() as tables:
            tables.set_floor(number, floor)
            assert tables.floor(number) == floor

    def pieces(self, piece: Callable[[Tables, int], int | None]) -> Iterator[None]:
        """Carry out a long change as the engine does, and let others work between its pieces."""
        after: int | None = 0
        while after is not None:
            start = after
            with self.database.transaction() as tables:
                after = piece(tables, start)
            assert after is None or after > start
            yield

    def end(self, place: float) -> int:
        """Return the end of a bundle that there was at some time, or what is before all."""
        ends = [0, *(each.last for each in self.model.bundles.values())]
        return ends[min(math.floor(place * len(ends)), len(ends) - 1)]

    def _open(self) -> Database:
        return Database(self._path / "broker.db")

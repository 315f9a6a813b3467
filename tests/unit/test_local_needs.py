"""Random changes of who needs which message, against sets of ids: on disk is what somebody needs, and no more."""

from __future__ import annotations

import math
from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from needs_bench import ORDERED, PLAIN, TOPIC, NeedsBench, Share
from needs_model import KEYS

from transports.local.model import Pending
from transports.local.storage.bundles import BUNDLE_BYTES, Part, bits_by_bundle
from transports.local.storage.needs import Replay
from transports.local.storage.tables import Tables

subscriptions = st.sampled_from([ORDERED, PLAIN])
#: How many messages a long change takes at a time: one by one, less than a bundle, several bundles, all.
pieces = st.sampled_from([1, 2, 50, 128, 129, 300, 10_000])
#: Every n-th message from the m-th on: of a bundle all, none, or some.
shares = st.builds(
    lambda step, start: lambda number: number % step == start % step,
    st.sampled_from([1, 2, 2, 3, 3, 7, 50]),
    st.integers(0, 1000),
)
anywhere = st.one_of(st.just(0.0), st.floats(0, 1))
batches = st.one_of(
    st.lists(st.sampled_from(KEYS), min_size=1, max_size=8),
    st.sampled_from([127, 128, 129, 300]).map(lambda count: [""] * count),
)


class NeedsMachine(RuleBasedStateMachine):
    """The tables of two subscriptions, a topic that may retain and snapshots, and the same as sets."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = NeedsBench()

    def teardown(self) -> None:
        self.bench.close()

    @rule()
    def reopen(self) -> None:
        self.bench.reopen()

    @initialize(first=shares, second=shares, acknowledged=shares, floor=st.sampled_from([0, 128]), retain=st.booleans())
    def begin(self, first: Share, second: Share, acknowledged: Share, floor: int, retain: bool) -> None:
        """Have something there of each kind; some of it was delivered, and some acknowledged and kept."""
        self.bench.publish([""] * 300, 4, first, second, retain)
        self.bench.publish(["A", "", "B", "A", "", ""], 4, second, first, False)
        for number in (ORDERED, PLAIN):
            self.bench.deliver(number, second, 7)
            self.bench.settle(number, acknowledged, True)
            self.bench.set_floor(number, floor)
        self._take_snapshot(PLAIN, 10_000, [], True)

    @rule(
        keys=batches,
        large=st.booleans(),
        gap=st.sampled_from([0, 0, 500]),
        first=shares,
        second=shares,
        retain=st.booleans(),
    )
    def publish(self, keys: list[str], large: bool, gap: int, first: Share, second: Share, retain: bool) -> None:
        self.bench.next_id += gap
        self.bench.publish(keys, BUNDLE_BYTES // 2 if large and len(keys) <= 8 else 4, first, second, retain)

    @rule(number=subscriptions, share=shares, keep=st.booleans())
    def settle(self, number: int, share: Share, keep: bool) -> None:
        self.bench.settle(number, share, keep)

    @rule(number=subscriptions, share=shares, seconds=st.integers(1, 1000))
    def deliver(self, number: int, share: Share, seconds: int) -> None:
        self.bench.deliver(number, share, seconds)

    @rule(number=subscriptions, share=shares, seconds=st.integers(1, 1000))
    def extend(self, number: int, share: Share, seconds: int) -> None:
        chosen = [each for each in self.bench.model.delivered(number) if share(each.message_id)]
        with self.bench.database.transaction() as tables:
            tables.note_extensions(number, [(each, seconds + each.message_id) for each in chosen])
        for each in chosen:
            self.bench.model.change(number, each.message_id, leased_us=seconds + each.message_id)

    @rule(number=subscriptions, share=shares, undone=st.booleans())
    def give_back(self, number: int, share: Share, undone: bool) -> None:
        chosen = [each for each in self.bench.model.delivered(number) if share(each.message_id) and each.attempts]
        returned = [each._replace(attempts=each.attempts - undone) for each in chosen]
        with self.bench.database.transaction() as tables:
            tables.note_returns(number, returned)
        for each in returned:
            self.bench.model.change(number, each.message_id, leased_us=0, attempts=each.attempts)

    @rule(number=subscriptions)
    def end_leases(self, number: int) -> None:
        with self.bench.database.transaction() as tables:
            tables.end_leases(number)
        for each in self.bench.model.delivered(number):
            self.bench.model.change(number, each.message_id, leased_us=0)

    @rule(number=subscriptions, place=anywhere)
    def set_floor(self, number: int, place: float) -> None:
        self.bench.set_floor(number, self.bench.end(place))

    @precondition(lambda self: len(self.bench.snapshots) < 3)
    @rule(number=subscriptions, at_most=pieces, shares=st.lists(shares, max_size=3), keep=st.booleans())
    def take_snapshot(self, number: int, at_most: int, shares: list[Share], keep: bool) -> None:
        self._take_snapshot(number, at_most, shares, keep)

    @rule(number=subscriptions, source=st.integers(0, 5), at_most=pieces, place=anywhere, share=st.none() | shares)
    def bring_back(self, number: int, source: int, at_most: int, place: float, share: Share | None) -> None:
        keeper = [number, number, TOPIC, *self.bench.snapshots][source % (3 + len(self.bench.snapshots))]
        after, until = self.bench.end(place), self.bench.next_id - 1

        def accepts(payload: bytes) -> bool:
            return share is None or share(int(payload.split(b"-")[0]))

        replay = Replay(number, after, until, keeper, number == ORDERED, accepts if share else None)
        for _ in self.bench.pieces(lambda tables, after: tables.bring_back(replay, after=after, at_most=at_most)):
            pass
        self.bench.model.bring_back(number, {each for each in self.bench.model.kept[keeper] if each > after}, share)

    @precondition(lambda self: self.bench.snapshots)
    @rule(number=subscriptions, at_most=pieces, place=anywhere, keep=st.booleans())
    def drop_others(self, number: int, at_most: int, place: float, keep: bool) -> None:
        snapshot, until = self.bench.snapshots[-1], self.bench.end(place)

        def piece(tables: Tables, after: int) -> int | None:
            return tables.drop_others(number, snapshot, after=after, until=until, at_most=at_most, keep=keep)

        for _ in self.bench.pieces(piece):
            pass
        others = self.bench.model.waiting[number] - self.bench.model.kept[snapshot]
        self.bench.model.settle(number, {each for each in others if each <= until}, keep=keep)

    @rule(number=subscriptions, at_most=pieces, place=anywhere, keep=st.booleans())
    def sweep_backlog(self, number: int, at_most: int, place: float, keep: bool) -> None:
        until = self.bench.end(place)
        expected = self.bench.model.first(self.bench.model.waiting[number], until, at_most)
        with self.bench.database.transaction() as tables:
            assert tables.sweep_backlog(number, until=until, keep=keep, at_most=at_most) == len(expected)
        self.bench.model.settle(number, expected, keep=keep)

    @rule(keeper=st.sampled_from([ORDERED, PLAIN, TOPIC]), at_most=pieces, place=anywhere)
    def sweep_kept(self, keeper: int, at_most: int, place: float) -> None:
        until = self.bench.end(place)
        expected = self.bench.model.first(self.bench.model.kept[keeper], until, at_most)
        with self.bench.database.transaction() as tables:
            assert tables.sweep_kept(keeper, until=until, at_most=at_most) == len(expected)
        self.bench.model.kept[keeper] -= set(expected)

    @precondition(lambda self: self.bench.snapshots)
    @rule(at_most=pieces)
    def delete_snapshot(self, at_most: int) -> None:
        snapshot, swept = self.bench.snapshots.pop(0), 1
        with self.bench.database.transaction() as tables:
            tables.condemn(snapshot)
        while swept:
            with self.bench.database.transaction() as tables:
                swept = tables.sweep_kept(snapshot, until=1 << 62, at_most=at_most)
        with self.bench.database.transaction() as tables:
            tables.absolve(snapshot)
        assert list(self.bench.database.contents().condemned) == []
        del self.bench.model.kept[snapshot]

    @invariant()
    def a_bundle_is_on_disk_while_somebody_needs_part_of_it(self) -> None:
        rows = self.bench.database._reader.execute("SELECT first FROM bundles ORDER BY first")
        assert [first for (first,) in rows] == self.bench.model.needed_bundles()

    @invariant()
    def rows_are_those_of_the_sets(self) -> None:
        self._agree("backlog", self.bench.model.waiting)
        self._agree("kept", self.bench.model.kept)
        rows = self.bench.database._reader.execute("SELECT last, first, members, waiting FROM backlog").fetchall()
        assert all(Part.read(first, last, members).total == waiting for last, first, members, waiting in rows)
        strays = "SELECT * FROM deliveries WHERE (keeper, first) NOT IN (SELECT keeper, first FROM backlog)"
        assert self.bench.database._reader.execute(strays).fetchall() == []

    @invariant()
    def what_is_counted_is_what_is_above_the_floor(self) -> None:
        for number in (ORDERED, PLAIN):
            above, tally = self.bench.model.above_floor(number), self.bench.database.tally(number)
            last = max((self.bench.model.bundle_of(each).last for each in above), default=0)
            assert (tally.total, tally.newest) == (len(above), last)
            oldest = self.bench.database.oldest_waiting_us(number, self.bench.model.floors[number])
            assert oldest == min((self.bench.model.bundle_of(each).published_us for each in above), default=None)
            leased = dict(self.bench.database.leased(number, self.bench.model.floors[number]))
            assert leased == {
                each: self.bench.model.records[number][each.message_id].leased_us
                for each in self.bench.model.delivered(number)
                if each.message_id in above and self.bench.model.records[number][each.message_id].leased_us
            }

    @invariant()
    def the_oldest_and_the_newest_are_those_of_the_sets(self) -> None:
        needed = [self.bench.model.bundles[first] for first in self.bench.model.needed_bundles()]
        assert self.bench.database.newest_published_us() == max((each.published_us for each in needed), default=0)
        for keeper in (ORDERED, PLAIN, TOPIC, *self.bench.snapshots):
            times = [self.bench.model.bundle_of(each).published_us for each in self.bench.model.kept[keeper]]
            assert self.bench.database.oldest_kept_us(keeper) == min(times, default=None)
        for time_us in {each.published_us + more for each in needed for more in (0, 1)}:
            before = [each.last for each in needed if each.published_us < time_us]
            assert self.bench.database.last_before(time_us) == max(before, default=needed[0].first - 1)

    @rule(
        number=subscriptions, share=shares, key=st.sampled_from(KEYS), at_most=pieces, places=st.tuples(*[anywhere] * 2)
    )
    def look(self, number: int, share: Share, key: str, at_most: int, places: tuple[float, float]) -> None:
        after, until = sorted(math.floor(each * self.bench.next_id) for each in places)
        self._page_by_page(number, after, until, at_most)
        found = self.bench.database.page_of_key(ORDERED, key, since=after, until=until, at_most=at_most)
        expected = [each for each in self.bench.model.pending(ORDERED) if key and each.ordering_key == key]
        assert found == [each for each in expected if after <= each.message_id <= until][:at_most]
        assert self.bench.database.page_of_key(PLAIN, key, since=0, until=self.bench.next_id, at_most=at_most) == []
        chosen = [each for each in self.bench.model.seen(number) if share(each.message_id)]
        read = {each.id: each.payload for each in self.bench.database.messages(number, reversed(chosen))}
        assert list(read) == [each.message_id for each in chosen if each.message_id in self.bench.model.waiting[number]]
        assert all(payload.startswith(b"%d-" % each) for each, payload in read.items())

    def _take_snapshot(self, number: int, at_most: int, shares: list[Share], keep: bool) -> None:
        """Take one in pieces, between which there are acknowledgements."""
        snapshot, until = self.bench.next_snapshot, self.bench.next_id - 1
        self.bench.next_snapshot += 1

        def piece(tables: Tables, after: int) -> int | None:
            return tables.take_snapshot(snapshot, number, after=after, until=until, at_most=at_most)

        for _ in self.bench.pieces(piece):
            chosen = [each for each in self.bench.model.seen(number) if shares and shares[-1](each.message_id)]
            with self.bench.database.transaction() as tables:
                tables.settle(number, bits_by_bundle(chosen), keep=keep, snapshot=snapshot)
            self.bench.model.settle(number, (each.message_id for each in chosen), keep=keep)
            shares = shares[:-1]
        self.bench.model.kept[snapshot] = self.bench.model.above_floor(number)
        self.bench.snapshots.append(snapshot)

    def _page_by_page(self, number: int, after: int, until: int, at_most: int) -> None:
        """Read pages that begin and end anywhere, also inside a bundle."""
        expected = [each for each in self.bench.model.pending(number) if after < each.message_id <= until]
        found: list[Pending] = []
        at_most = max(at_most, len(expected) // 20)
        while page := self.bench.database.page(number, after=after, until=until, at_most=at_most):
            assert len(page) == min(at_most, len(expected) - len(found))
            found += page
            after = page[-1].message_id
        assert found == expected

    def _agree(self, table: str, sets: dict[int, set[int]]) -> None:
        found: dict[int, set[int]] = {}
        for keeper, first, last, members in self.bench.database._reader.execute(
            f"SELECT keeper, first, last, members FROM {table}"
        ):
            ids: Iterable[int] = Part.read(first, last, members).ids()
            assert ids, "a row without messages"
            found.setdefault(keeper, set()).update(ids)
        assert found == {keeper: ids for keeper, ids in sets.items() if ids}


TestNeeds = NeedsMachine.TestCase
TestNeeds.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

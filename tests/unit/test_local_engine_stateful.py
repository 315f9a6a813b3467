"""Random operations on an engine and its files, restarts and power cuts among them: nothing is lost or comes back."""

from __future__ import annotations

import asyncio
import itertools
import math
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from local_tables import waiting
from power_cuts import SyncedDatabase

from transports.local.catalog import Attached
from transports.local.clock import now_us
from transports.local.dispatch.delivery import Consumer
from transports.local.engine import Engine
from transports.local.loops import Loop
from transports.local.model import Delivery, Draft, Snapshot, Subscription, Topic
from transports.local.storage import gathering, redo, wanted
from transports.local.storage.writer import Writer

TOPIC = Topic("projects/p/topics/topic")
PLAIN = Subscription("projects/p/subscriptions/plain", TOPIC.name, 600, 600, None)
ONCE = Subscription("projects/p/subscriptions/once", TOPIC.name, 600, 600, None, exactly_once=True)
KEEPING = Subscription("projects/p/subscriptions/keeping", TOPIC.name, 600, 600, None, retain_acked=True)
ORDERED = Subscription("projects/p/subscriptions/ordered", TOPIC.name, 600, 600, None, ordered=True)
SNAPSHOT = "projects/p/snapshots/snapshot"

ALL = (PLAIN, ONCE, KEEPING, ORDERED)
names = st.sampled_from([each.name for each in ALL])
some = st.integers(1, 5)


class EngineMachine(RuleBasedStateMachine):
    """An engine, and what must be true of it: messages by id, as sets."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="engine-"))
        self.runner = asyncio.Runner(loop_factory=Loop)
        self.open: dict[str, set[int]] = {each.name: set() for each in ALL}
        #: Acknowledged since the last sync, where a power cut may bring it back.
        self.fresh: dict[str, set[int]] = {each.name: set() for each in ALL}
        self.done: set[int] = set()
        self.held: dict[str, dict[int, Delivery]] = {name: {} for name in self.open}
        self.snapshot: set[int] | None = None
        self.numbers = itertools.count()
        self.bodies: dict[int, bytes] = {}
        self.runner.run(self._start())
        self.runner.run(self._create())

    def teardown(self) -> None:
        self._stop()
        self.runner.close()
        shutil.rmtree(self.path)

    async def _publish(self, drafts: list[Draft]) -> list[int]:
        return await self.engine.publish(TOPIC.name, drafts)

    async def _acknowledge(self, name: str, ack_ids: list[str]) -> list[str]:
        return await self.engine.acknowledge(name, ack_ids)

    async def _start(self) -> None:
        self.database = SyncedDatabase(self.path)
        self.writer = Writer(self.database)
        self.writer.start()
        self.engine = Engine(self.database, self.writer, grace_seconds=600)
        await self.engine.start()

    async def _create(self) -> None:
        await self.engine.administration.create_topic(TOPIC)
        for settings_ in ALL:
            await self.engine.administration.create_subscription(settings_)

    def _stop(self) -> None:
        self.engine.close()
        self.writer.stop()
        self.database.close()

    def attached(self, name: str) -> Attached:
        return self.engine.catalog.subscription(name)

    @rule(keys=st.lists(st.sampled_from(["", "A", "B"]), min_size=1, max_size=6), size=st.integers(0, 60))
    def publish(self, keys: list[str], size: int) -> None:
        drafts = [Draft(b"%d" % next(self.numbers) + b"." * size, {}, key) for key in keys]
        ids = self.runner.run(self._publish(drafts))
        self.bodies.update(zip(ids, (each.payload for each in drafts), strict=True))
        for messages in self.open.values():
            messages.update(ids)
        if self.snapshot is not None:
            self.snapshot.update(ids)

    @rule(name=names, count=st.integers(1, 20))
    def take(self, name: str, count: int) -> None:
        for each in self._take(name, count):
            assert each.message.id in self.open[name]
            assert each.message.payload == self.bodies[each.message.id]
            self.held[name][each.message.id] = each

    @rule(name=names, count=some)
    def acknowledge(self, name: str, count: int) -> None:
        ids = list(self.held[name])[:count]
        ack_ids = [self.held[name].pop(each).ack_id for each in ids]
        assert self.runner.run(self._acknowledge(name, ack_ids)) == []
        self._close(name, set(ids))

    @rule(name=names, count=some)
    def give_back(self, name: str, count: int) -> None:
        self._give_back(name, [self.held[name].pop(each) for each in list(self.held[name])[:count]])

    @rule(name=names)
    def purge(self, name: str) -> None:
        self.runner.run(self.engine.replays.seek_to_time(name, now_us() + 1_000_000))
        self._close(name, set(self.open[name]))
        self.held[name].clear()

    @rule(name=names)
    def replay(self, name: str) -> None:
        self.runner.run(self.engine.replays.seek_to_time(name, 0))
        if name == KEEPING.name:
            self.open[name] |= self.done
            self.done.clear()

    @rule()
    def take_snapshot(self) -> None:
        if self.snapshot is not None:
            self.runner.run(self.engine.replays.delete_snapshot(SNAPSHOT))
        self.runner.run(self.engine.replays.create_snapshot(Snapshot(SNAPSHOT, "", 0), KEEPING.name))
        self.snapshot = set(self.open[KEEPING.name])

    @rule(name=names)
    def seek_to_snapshot(self, name: str) -> None:
        if self.snapshot is not None:
            self.runner.run(self.engine.replays.seek_to_snapshot(name, SNAPSHOT))
            self._close(name, self.open[name] - self.snapshot)
            self.open[name] = set(self.snapshot)
            if name == KEEPING.name:
                self.done -= self.snapshot
            self.held[name].clear()

    @rule()
    def be_slow(self) -> None:
        """Have the disk count as slow until something was written: the next change is not logged."""
        self.engine._ledger._commits._pace.is_quick = False

    @rule()
    def tidy(self) -> None:
        """Have segments of the redo log looked at."""

        async def tidy() -> None:
            await self.engine.followed()
            debt = self.engine._ledger._commits._debt
            debt._tidying._look()
            async with asyncio.timeout(30):
                while debt.at_work:
                    await asyncio.sleep(0.001)

        self.runner.run(tidy())

    @rule()
    def restart(self) -> None:
        self._stop()
        self.runner.run(self._start())

    @rule()
    def sync(self) -> None:
        """Let the time pass after which what was confirmed without a sync is synced."""

        async def sync() -> None:
            self.engine._ledger._commits._sync()

        self.runner.run(sync())
        assert not self.database.redo.unsynced

    @rule(
        last=st.lists(st.tuples(st.booleans(), names), max_size=4),
        follows=st.booleans(),
        kill=st.booleans(),
        in_part=st.booleans(),
    )
    def power_cut(self, last: list[tuple[bool, str]], follows: bool, kill: bool, in_part: bool) -> None:
        """Cut the power, or kill the broker, right after some confirmed changes, which the tables have or have not."""
        if not follows:
            for name in ("_follow", "_follow_soon"):
                setattr(self.engine._ledger._commits._debt, name, lambda: None)
        for publishes, name in last:
            if publishes:
                self.publish(["", "A"], 30)
            elif self.held[name]:
                self.acknowledge(name, 1)
        left = Path(tempfile.mkdtemp(prefix="engine-"))
        with self.writer._writing:
            if kill:
                self.database.leave_after_a_kill(left)
            else:
                self._forget_what_is_synced()
                self.database.leave_after_a_power_cut(left, in_part=in_part)
        self._stop()
        shutil.rmtree(self.path)
        self.path = left
        self.runner.run(self._start())
        assert not list(left.glob("*foreign*"))
        if not kill:
            self._take_back()
        # Who held what, and what was given back, may be forgotten or not.
        for name, held in self.held.items():
            self.attached(name).dispatcher.backlog.lapse(math.inf)
            held.clear()

    def _forget_what_is_synced(self) -> None:
        if not self.database.redo.unsynced:
            for messages in self.fresh.values():
                messages.clear()

    def _take_back(self) -> None:
        """See what has come back after a power cut: nothing but what was acknowledged a moment ago."""
        assert not self.fresh[ONCE.name]
        for name, messages in self.open.items():
            attached = self.attached(name)
            # What was purged goes from the tables in its own time.
            back = {each for each in waiting(self.database, attached.number) if each > attached.floor} - messages
            assert back <= self.fresh[name]
            messages |= back
            if name == KEEPING.name:
                self.done -= back

    @invariant()
    def counts_are_right(self) -> None:
        self.runner.run(self.engine.followed())
        for name, messages in self.open.items():
            assert len(self.attached(name).dispatcher.backlog) == len(messages)

    @rule(name=names)
    def everything_comes(self, name: str) -> None:
        """Give back what is held, and take and acknowledge all there is."""
        self._give_back(name, list(self.held[name].values()))
        self.held[name].clear()
        seen: set[int] = set()
        while taken := self._take(name, 1000):
            ids = {each.message.id for each in taken}
            assert all(each.message.payload == self.bodies[each.message.id] for each in taken)
            assert not ids & seen
            seen |= ids
            self.runner.run(self._acknowledge(name, [each.ack_id for each in taken]))
        assert seen == self.open[name]
        self._close(name, seen)

    def _give_back(self, name: str, deliveries: list[Delivery]) -> None:
        async def give_back() -> None:
            self.engine.modify_ack_deadline(name, [each.ack_id for each in deliveries], 0)
            # It is written down a moment later; a kill between would only delay the next delivery.
            await asyncio.sleep(0)

        self.runner.run(give_back())

    def _take(self, name: str, count: int) -> list[Delivery]:
        """Take what can be had at once."""

        async def take() -> list[Delivery]:
            consumer = Consumer(ack_deadline_seconds=600, max_messages=count)
            task = asyncio.ensure_future(self.engine.deliveries(self.attached(name), consumer))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if task.done():
                return task.result()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return []

        return self.runner.run(take())

    def _close(self, name: str, ids: set[int]) -> None:
        self.open[name] -= ids
        self._forget_what_is_synced()
        if self.database.redo.unsynced and name != ONCE.name:
            self.fresh[name] |= ids
        if name == KEEPING.name:
            self.done |= ids


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have payloads left in the redo log, and segments begun, with little in them; no disk is slow by itself."""
    monkeypatch.setattr(wanted, "SLOW_SECONDS", 60)
    monkeypatch.setattr(redo, "LARGE_BYTES", 30)
    monkeypatch.setattr(redo, "FULL_BYTES", 800)
    monkeypatch.setattr(gathering, "LITTLE_BYTES", 60)


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

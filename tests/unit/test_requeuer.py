"""From the store to the queue again, by a person or by a worker, over a broker in memory."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, signature
from click.testing import CliRunner
from studio import quick_settings

from studio_celery.cli.requeueing import requeue
from studio_celery.client import Client
from studio_celery.errors import BrokerError, CannotRequeue, MayNotPublish, MessageLost
from studio_celery.experiment import Experiment, Status, new_id, utc_now
from studio_celery.janitor import requeues
from studio_celery.janitor.requeues import Requeues
from studio_celery.journal import Kind
from studio_celery.settings import Settings
from studio_celery.store import Item, Journal, Store
from studio_celery.submission.broker import Broker
from studio_celery.submission.message import Message
from studio_celery.submission.request import make_request
from studio_celery.submission.requeuer import Requeued
from studio_celery.world import World

#: For how long queues keep a message here, seconds; half of it is waited.
RETENTION = 1000.0


class Bench:
    """A store, a broker in memory, a client."""

    def __init__(self, folder: Path) -> None:
        self.app = Celery("bench", broker="memory://", set_as_current=False)
        self.app.conf.update(task_serializer="json", task_create_missing_queues=True)
        self.settings: Settings = quick_settings(folder / "home", message_retention_seconds=RETENTION)
        self.store = Store(str(folder / "store"))
        self.client = Client(self.app, self.settings, World("memory://", self.store.url, "a test"), self.store)
        self.script = folder / "work" / "script.py"
        self.script.parent.mkdir()
        self.script.write_text("print(1)")
        self.queues: set[str] = set()

    def submit(self, *kinds: Kind, queue: str = "q", **options: Any) -> str:
        """An experiment in a queue, with what else happened to it; its id."""
        self.queues.add(queue)
        request = make_request(new_id(), str(self.script), queue=queue, lifetime_seconds=options.pop("lifetime", None))
        experiment = self.client.submit(request, **options).experiment
        for kind in kinds:
            data = {"attempt": 1, "host": "h"} if kind is Kind.CLAIMED else {"epoch": 3}
            assert self.journal(experiment.id).decide(kind, "w1", **data)
        return experiment.id

    def journal(self, experiment_id: str) -> Journal:
        journal = self.store.journal(experiment_id)
        journal.refresh()
        return journal

    def again(self, experiment_id: str) -> list[tuple[str, str]]:
        """(by, reason) of entries that say that a message was sent again."""
        entries = self.journal(experiment_id).entries
        return [(e.by, e.data["reason"]) for e in entries if e.kind is Kind.QUEUED and e.data.get("again")]

    def taken(self, queue: str = "q") -> Counter[str]:
        """How often each experiment's message was in the queue, which is empty after that."""
        found: Counter[str] = Counter()
        with self.app.connection_for_read() as connection:
            while (message := connection.default_channel.basic_get(queue, no_ack=True)) is not None:
                found[message.headers["id"]] += 1
        return found

    def purge(self) -> None:
        for queue in self.queues:
            self.taken(queue)

    def age(self, experiment_id: str, seconds: float) -> None:
        """Let everything that is stored of it, and its marker, be so much older."""
        root = Path(self.store.url)
        for path in (*(root / "experiments" / experiment_id).rglob("*.json"), *(root / "index").rglob(experiment_id)):
            os.utime(path, (time.time() - seconds,) * 2)

    def worker(self, name: str = "w1", broker: Broker | None = None) -> Requeues:
        return Requeues(broker or Broker(self.app, "memory://", 1.0), Store(self.store.url), self.settings, name)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.purge()
    bench.app.close()


class TestByAPerson:
    def test_one_is_sent_again_with_what_follows_it(self, bench: Bench) -> None:
        one = bench.submit(link=signature("next"), countdown=600)
        kept = Message.from_json(bench.store.message(one))
        bench.purge()
        assert bench.client.requeue(one[:-3]) == one
        assert bench.taken() == {one: 1}
        assert kept.body[2]["callbacks"][0]["task"] == "next"
        assert bench.again(one) == [(bench.client._me, f"requeued by {bench.client._me}")]

    @pytest.mark.parametrize("kinds", [(), (Kind.CLAIMED,), (Kind.CLAIMED, Kind.STARTED)])
    def test_whatever_has_not_ended_may_have_lost_its_message(self, bench: Bench, kinds: tuple[Kind, ...]) -> None:
        one = bench.submit(*kinds)
        before = bench.journal(one).state
        bench.purge()
        assert list(bench.client.requeue_all()) == [Requeued(one)]
        assert bench.taken() == {one: 1}
        assert bench.journal(one).state.status is before.status

    @pytest.mark.parametrize("kind", [Kind.FAILED, Kind.STOPPED])
    def test_what_has_ended_is_refused(self, bench: Bench, kind: Kind) -> None:
        one = bench.submit(Kind.CLAIMED, Kind.STARTED, kind)
        bench.purge()
        with pytest.raises(CannotRequeue, match=f"{one} is {kind.value}.*studio rerun"):
            bench.client.requeue(one)
        assert list(bench.client.requeue_all()) == []
        assert bench.taken() == {}

    def test_what_never_got_into_a_queue_is_left_to_its_submitter(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Broker, "publish", lambda *args, **options: (_ for _ in ()).throw(BrokerError("gone")))
        with pytest.raises(BrokerError):
            bench.submit()
        (one,) = bench.store.recent()
        with pytest.raises(CannotRequeue, match="still submitting"):
            bench.client.requeue(one)
        assert list(bench.client.requeue_all()) == []

    def test_a_lifetime_that_ran_out_meanwhile_ends_it(self, bench: Bench) -> None:
        one = bench.submit(lifetime=60)
        bench.age(one, 100)
        bench.purge()
        assert list(bench.client.requeue_all()) == []
        with pytest.raises(CannotRequeue, match="is expired"):
            bench.client.requeue(one)

    def test_of_one_queue_only(self, bench: Bench) -> None:
        one, other = bench.submit(queue="q"), bench.submit(queue="other")
        bench.purge()
        assert [each.id for each in bench.client.requeue_all("other")] == [other]
        assert (bench.taken("q"), bench.taken("other")) == ({}, {other: 1})
        assert bench.again(one) == []

    def test_a_missing_message_is_said_and_costs_none_of_the_others(self, bench: Bench) -> None:
        one, broken, other = bench.submit(), bench.submit(), bench.submit()
        (Path(bench.store.url) / "experiments" / broken / "message.json").unlink()
        bench.purge()
        outcomes = {each.id: each.problem for each in bench.client.requeue_all()}
        assert (outcomes[one], outcomes[other]) == (None, None)
        assert "has no message" in str(outcomes[broken])
        assert bench.taken() == {one: 1, other: 1}
        with pytest.raises(MessageLost):
            bench.client.requeue(broken)

    def test_a_journal_that_cannot_be_read_is_said_and_costs_none_of_the_others(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, broken, other = bench.submit(), bench.submit(), bench.submit()
        _spoil(bench, broken)
        bench.purge()
        monkeypatch.setattr("studio_celery.cli.requeueing._all", lambda queue: bench.client.requeue_all(queue))
        done = CliRunner().invoke(requeue, ["--all"])
        assert (done.exit_code, set(done.stdout.split())) == (1, {one, other})
        assert f"Error: {broken}: The store holds" in done.stderr
        assert bench.taken() == {one: 1, other: 1}

    def test_a_queue_that_refuses_is_said_and_costs_none_of_the_others(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, refused = bench.submit(queue="own"), bench.submit(queue="foreign")
        bench.purge()
        broker = Faulty(bench.app, MayNotPublish("refused"), queue="foreign")
        monkeypatch.setattr(Client, "_broker", broker)
        outcomes = {each.id: each.problem for each in bench.client.requeue_all()}
        assert outcomes == {one: None, refused: f"{refused}: refused"}
        assert bench.taken("own") == {one: 1}

    def test_a_broker_that_is_down_leaves_no_trace(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        one = bench.submit()
        monkeypatch.setattr(Broker, "publish_again", lambda *args: (_ for _ in ()).throw(BrokerError("gone")))
        with pytest.raises(BrokerError):
            list(bench.client.requeue_all())
        assert bench.again(one) == []

    def test_removing_an_experiment_removes_its_message(self, bench: Bench) -> None:
        one = bench.submit(Kind.CLAIMED, Kind.STARTED, Kind.FAILED)
        bench.client.remove(one)
        with pytest.raises(KeyError):
            bench.store.message(one)

    def test_a_rerun_is_a_new_experiment_with_the_same_workspace(self, bench: Bench) -> None:
        one = bench.submit(Kind.CLAIMED, Kind.STARTED, Kind.FAILED)
        bench.purge()
        made = bench.client.rerun(one)
        assert bench.taken() == {made.id: 1}
        former = bench.journal(one).state.experiment
        assert former is not None
        assert (made.workspace, made.script, made.queue) == (former.workspace, former.script, former.queue)
        assert made.id != one
        assert bench.journal(made.id).state.status is Status.WAITING


class TestTheSameOnceMore:
    """As when a chain goes on twice: its next part has its id already."""

    def test_what_is_in_a_queue_stays_what_it_is(self, bench: Bench) -> None:
        one = bench.submit()
        before = bench.journal(one).entries
        bench.script.write_text("print('changed')")
        bench.client.submit(make_request(one, str(bench.script), queue="q"))
        assert bench.taken() == {one: 1}
        assert bench.journal(one).entries == before

    def test_what_is_not_gets_the_message_of_what_was_recorded(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Broker, "publish", lambda *args, **options: (_ for _ in ()).throw(BrokerError("gone")))
            with pytest.raises(BrokerError):
                bench.submit()
        (one,) = bench.store.recent()
        bench.script.write_text("print('changed')")
        bench.client.submit(make_request(one, str(bench.script), queue="q"))
        state = bench.journal(one).state
        assert Message.from_json(bench.store.message(one)).body[1]["digest"] == state.digest
        assert (bench.taken(), state.status) == ({one: 1}, Status.WAITING)


class TestByAWorker:
    def test_what_has_waited_half_the_retention_is_sent_again_once(self, bench: Bench) -> None:
        old, running, young = bench.submit(), bench.submit(Kind.CLAIMED, Kind.STARTED), bench.submit()
        ended = bench.submit(Kind.CLAIMED, Kind.STARTED, Kind.FAILED)
        for each in (old, running, ended):
            bench.age(each, RETENTION / 2 + 1)
        bench.age(young, RETENTION / 2 - 60)
        bench.purge()
        for name in ("w1", "w2"):
            bench.worker(name).send()
        assert bench.taken() == {old: 1, running: 1}
        ((by, reason),) = bench.again(old)
        assert (by, reason[:17]) == ("w1", "requeued after 8m")
        assert bench.again(young) == bench.again(ended) == []

    def test_the_next_time_is_half_the_retention_later(self, bench: Bench) -> None:
        one = bench.submit()
        bench.age(one, RETENTION)
        bench.worker().send()
        bench.purge()
        marked = RETENTION / 2 - 60
        bench.age(one, marked)
        bench.worker("w2").send()
        assert bench.taken() == {}
        bench.age(one, RETENTION / 2 + 1)
        bench.worker("w2").send()
        assert bench.taken() == {one: 1}
        assert [by for by, _ in bench.again(one)] == ["w1", "w2"]

    def test_of_many_at_once_one_sends_it(self, bench: Bench) -> None:
        made = [bench.submit() for _ in range(5)]
        for each in made:
            bench.age(each, RETENTION)
        bench.purge()
        workers = [bench.worker(f"w{n}") for n in range(6)]
        with ThreadPoolExecutor(len(workers)) as pool:
            list(pool.map(lambda worker: worker.send(), workers))
        assert bench.taken() == dict.fromkeys(made, 1)
        assert list((Path(bench.store.url) / "experiments").rglob("turns/*")) == []

    def test_who_fails_gives_the_turn_back_and_tries_again(self, bench: Bench) -> None:
        one = bench.submit()
        bench.age(one, RETENTION)
        bench.purge()
        worker = bench.worker("w1", Faulty(bench.app, BrokerError("gone")))
        for _ in range(2):
            with pytest.raises(BrokerError):
                worker.send()
        bench.worker("w2").send()
        assert bench.taken() == {one: 1}

    def test_who_may_not_publish_says_so_once_and_leaves_it_to_others(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        one = bench.submit()
        bench.age(one, RETENTION)
        bench.purge()
        worker = bench.worker("w1", Faulty(bench.app, MayNotPublish("refused")))
        for _ in range(3):
            worker.send()
        assert caplog.text.count("by other workers only") == 1
        bench.worker("w2").send()
        assert bench.taken() == {one: 1}

    def test_a_queue_that_refuses_costs_none_of_the_others(self, bench: Bench) -> None:
        made = [bench.submit(queue=queue) for queue in ("own", "foreign", "own")]
        for each in made:
            bench.age(each, RETENTION)
        bench.purge()
        bench.worker("w1", Faulty(bench.app, MayNotPublish("refused"), queue="foreign")).send()
        assert (bench.taken("own"), bench.taken("foreign")) == ({made[0]: 1, made[2]: 1}, {})

    def test_a_turn_of_one_that_died_with_it_is_taken_over(self, bench: Bench) -> None:
        one = bench.submit()
        bench.age(one, RETENTION)
        bench.purge()
        limit = bench.settings.submission_limit_seconds
        assert bench.store.take_turn(one, 2, turn_seconds=limit)
        bench.worker().send()
        assert bench.taken() == {}
        turn = Path(bench.store.url) / "experiments" / one / "turns" / "000002"
        os.utime(turn, (time.time() - limit - 1,) * 2)
        bench.worker().send()
        assert bench.taken() == {one: 1}

    def test_a_lost_message_is_said_and_costs_none_of_the_others(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        made = [bench.submit() for _ in range(3)]
        for each in made:
            bench.age(each, RETENTION)
        (Path(bench.store.url) / "experiments" / made[1] / "message.json").unlink()
        bench.purge()
        bench.worker().send()
        assert bench.taken() == {made[0]: 1, made[2]: 1}
        assert "without a message" in caplog.text

    def test_a_walk_goes_on_where_the_last_round_ended(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(requeues, "PORTION", 2)
        made = [bench.submit() for _ in range(5)]
        for each in made:
            bench.age(each, RETENTION)
        bench.purge()
        worker, sent = bench.worker(), []
        for _ in range(4):
            worker.send()
            sent.append(sum(bench.taken().values()))
        assert sent == [2, 2, 1, 0]
        assert worker._next_at > 0

    def test_what_is_known_on_this_host_costs_a_round_nothing(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(requeues, "PORTION", 2)
        one = bench.submit()
        ended = [bench.submit(Kind.CLAIMED, Kind.STARTED, Kind.FAILED) for _ in range(5)]
        bench.client.list()  # which copies what has ended
        for each in (one, *ended):
            bench.age(each, RETENTION)
        bench.client.list()
        bench.purge()
        bench.worker().send()
        assert bench.taken() == {one: 1}

    @pytest.mark.parametrize("told", [190.0, {"q": 190.0, "other": 10 * RETENTION}])
    def test_the_shorter_of_setting_and_broker_counts(self, bench: Bench, told: Any) -> None:
        one, other = bench.submit(), bench.submit(queue="other")
        for each in (one, other):
            bench.age(each, 100)
        bench.purge()
        bench.worker("w1", Keeping(bench.app, 10 * RETENTION)).send()
        assert bench.taken() == bench.taken("other") == {}
        bench.worker("w1", Keeping(bench.app, told)).send()
        assert bench.taken() == {one: 1}
        assert bench.taken("other") == ({other: 1} if told == 190.0 else {})

    def test_without_a_setting_the_broker_is_believed(self, bench: Bench) -> None:
        bench.settings = dataclasses.replace(bench.settings, message_retention_seconds=None)
        one = bench.submit()
        bench.age(one, 10 * 86400)
        bench.purge()
        bench.worker("w1", Keeping(bench.app, 31 * 86400)).send()
        assert bench.taken() == {}
        bench.age(one, 16 * 86400)
        bench.worker("w1", Keeping(bench.app, 31 * 86400)).send()
        assert bench.taken() == {one: 1}

    def test_where_messages_are_kept_until_taken_nothing_is_sent_again(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        bench.settings = dataclasses.replace(bench.settings, message_retention_seconds=None)
        one = bench.submit()
        bench.age(one, 1000 * 86400)
        bench.purge()
        worker = bench.worker()
        for _ in range(3):
            worker.send()
        assert bench.taken() == {}
        assert caplog.text.count("until they are taken") == 1

    def test_a_journal_that_cannot_be_read_costs_none_of_the_others(self, bench: Bench) -> None:
        made = [bench.submit() for _ in range(3)]
        _spoil(bench, made[1])
        for each in made:
            bench.age(each, RETENTION)
        bench.purge()
        bench.worker().send()
        assert bench.taken() == {made[0]: 1, made[2]: 1}


def _spoil(bench: Bench, experiment_id: str) -> None:
    (Path(bench.store.url) / "experiments" / experiment_id / "journal" / "000002.json").write_bytes(b"")


@pytest.mark.parametrize("argv", [(), ("e", "--all"), ("e", "--queue", "q"), ("--queue", "q")])
def test_some_ids_or_all_and_a_queue_with_all_only(argv: tuple[str, ...]) -> None:
    done = CliRunner().invoke(requeue, argv)
    assert done.exit_code == 2
    assert done.output.count("Error: ") == 1


def test_turns_and_messages_are_in_every_kind_of_store(store_url: str) -> None:
    store = Store(store_url)
    store.put_message("e", b"m")
    assert store.message("e") == b"m"
    assert store.take_turn("e", 2, turn_seconds=60)
    assert not Store(store_url).take_turn("e", 2, turn_seconds=60)
    assert store.take_turn("e", 5, turn_seconds=60)
    assert store.take_turn("e", 2, turn_seconds=-1)
    store.end_turn("e", 2)
    assert store.take_turn("e", 2, turn_seconds=60)
    store.clear(Experiment(id="e", queue="q", script="s", workspace="", submitted_at=utc_now()))
    assert store.objects.listing("experiments") == []


def test_a_turn_that_ends_while_it_is_looked_at_is_not_taken_from_who_takes_it_then(store_url: str) -> None:
    store, others = Store(store_url), Store(store_url)
    assert others.take_turn("e", 2, turn_seconds=60)
    head = store.objects.head

    def ends_meanwhile(key: str) -> Item:
        if not key.endswith("000002"):
            return head(key)
        others.end_turn("e", 2)
        try:
            return head(key)
        finally:
            assert others.take_turn("e", 2, turn_seconds=60)

    store.objects.head = ends_meanwhile  # type: ignore[method-assign]
    assert not store.take_turn("e", 2, turn_seconds=60)
    assert others.objects.exists("experiments/e/turns/000002")


class Faulty(Broker):
    """A broker that does not take messages, of one queue or of any."""

    def __init__(self, app: Any, error: BrokerError, queue: str | None = None) -> None:
        super().__init__(app, "memory://", 1.0)
        self._fault = error
        self._queue = queue

    def publish_again(self, message: Message, queue: str) -> None:
        if self._queue in (None, queue):
            raise self._fault
        super().publish_again(message, queue)


class Keeping(Broker):
    """A broker that says for how long it keeps messages, by queue or in any; it is consumed from `q`."""

    def __init__(self, app: Any, retention: float | dict[str, float]) -> None:
        super().__init__(app, "memory://", 1.0)
        self._retention = retention

    @property
    def consumed(self) -> tuple[str, ...]:
        return ("q",)

    def retention_seconds(self, queue: str) -> float:
        return self._retention[queue] if isinstance(self._retention, dict) else self._retention

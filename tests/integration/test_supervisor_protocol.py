"""The supervisor against the protocol where it is narrow: two owners, lost answers, a store that is away, leftovers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from studio import read_log, wait_for
from supervisor_bench import Bench, gated, store_of

from studio_celery.errors import EngineUnavailable, StoreError
from studio_celery.experiment import Status
from studio_celery.journal import Kind
from studio_celery.runtimes.contract import Cancellation, Exit, Handle, Launch
from studio_celery.supervisor import Deferred, Detached, Ended, Supervisor
from studio_celery.supervisor.doorway import doorway


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path)
    yield one
    one.close()


def test_an_owner_whose_attempt_was_adopted_leaves_it_running(bench: Bench, tmp_path: Path) -> None:
    """It was cut off for longer than the patience, and another worker of its host took over."""
    first, second = bench.worker(), bench.worker()
    one = bench.submit(gated(tmp_path / "gate"))
    former = bench.deliver(first, one)
    bench.running(one)
    store_of(first).cut()
    wait_for("the adoption", lambda: bench.deliver(second, one).join(0.3) or "adopted" in bench.kinds(one))
    store_of(first).heal()
    wait_for("the former owner's leaving", lambda: not former.is_alive())
    (tmp_path / "gate").touch()
    wait_for("the end", lambda: bench.state(one).status.terminal)
    state = bench.state(one)
    assert (state.status, len(state.attempts), state.attempts[0].worker) == (Status.FINISHED, 1, second.identity.id)
    assert read_log(bench.store, one) == b"first\nlast\n"
    assert bench.kinds(one).count("finished") == 1


def test_an_attempt_that_was_superseded_on_the_same_host_is_ended_before_the_next_one_starts(bench: Bench) -> None:
    """Its owner is cut off and cannot know: never are two of one experiment alive on one host."""
    first, second = bench.worker(), bench.worker()
    one = bench.submit("import os, time; print(1); time.sleep(600 if os.environ['STUDIO_ATTEMPT'] == '1' else 0)")
    bench.deliver(first, one)
    bench.running(one)
    store_of(first).cut()
    assert bench.store.journal(one).decide(Kind.LOST, "elsewhere", attempt=1, reason="worker lost: test")
    result = second.handle(one)
    assert isinstance(result, Ended)
    assert [attempt["status"] for attempt in result.record["attempts"]] == ["lost", "finished"]
    assert second.runtime.find() == []
    assert bench.kinds(one)[4:] == ["lost", "claimed", "started", "finished"]


def test_a_former_owner_says_nothing_about_its_successors_attempt(bench: Bench, tmp_path: Path) -> None:
    """What it ran vanished between two heartbeats: that is its own attempt's loss, and of no other."""
    first = bench.worker(heartbeat_seconds=3600.0)
    one = bench.submit(gated(tmp_path / "gate"))
    former = bench.deliver(first, one)
    bench.running(one)
    journal = bench.store.journal(one)
    assert journal.decide(Kind.LOST, "elsewhere", attempt=1, reason="worker lost: test")
    assert journal.decide(Kind.CLAIMED, "elsewhere", attempt=2, host="elsewhere")
    first.runtime.poll = lambda handle: Exit(lost="it vanished")  # type: ignore[method-assign]
    wait_for("the former owner's leaving", lambda: not former.is_alive())
    assert bench.kinds(one)[-1] == "claimed"


def test_nothing_starts_while_the_journal_cannot_be_read(bench: Bench, tmp_path: Path) -> None:
    """It might say that a stop was requested, or that the attempt is somebody else's by now."""
    worker = bench.worker()
    one = bench.submit("print(1)")
    prepare = worker.runtime.prepare

    def cut_off_then(launch: Launch, *args: Any) -> None:
        prepare(launch, *args)
        store_of(worker).cut()

    worker.runtime.prepare = cut_off_then  # type: ignore[method-assign]
    thread = bench.deliver(worker, one)
    wait_for("the claim", lambda: "claimed" in bench.kinds(one))
    assert bench.store.journal(one).decide(Kind.STOP_REQUESTED, "alice")
    thread.join(3 * worker.settings.heartbeat_seconds)
    assert worker.runtime.find() == []
    store_of(worker).heal()
    wait_for("the end", lambda: bench.state(one).status.terminal)
    assert bench.kinds(one)[-3:] == ["claimed", "stop requested", "stopped"]


def test_a_worker_that_stood_still_before_its_start_finds_out_in_the_doorway(tmp_path: Path) -> None:
    (tmp_path / "run" / "workers").mkdir(parents=True)
    with doorway(tmp_path, "one", lambda: False):
        asked: list[bool] = []
        with pytest.raises(Cancellation), doorway(tmp_path, "one", lambda: asked.append(True) or len(asked) > 2):
            pytest.fail("two were in the doorway")
    with doorway(tmp_path, "one", lambda: True):
        assert len(asked) == 3


def test_a_claim_whose_answer_was_lost_costs_no_attempt(bench: Bench) -> None:
    """The entry is there, and nobody runs it: the same worker gives it back as soon as it sees it."""
    worker = bench.worker()
    one = bench.submit("print('once')", max_attempts=1)
    create, lost = worker.store.objects.create, [True]

    def create_and_lose_the_answer(key: str, data: bytes) -> bool:
        created = create(key, data)
        if b'"claimed"' in data and lost.pop() if lost else False:
            raise StoreError("The store does not answer.")
        return created

    worker.store.objects.create = create_and_lose_the_answer  # type: ignore[method-assign]
    assert isinstance(worker.handle(one), Deferred)
    assert bench.kinds(one)[-1] == "claimed"
    result = worker.handle(one)
    assert isinstance(result, Ended)
    assert result.record["status"] == "finished"
    assert bench.kinds(one) == ["submitted", "queued", "claimed", "released", "claimed", "started", "finished"]


def test_a_message_is_never_lost_because_the_reason_of_its_delay_cannot_be_noted(bench: Bench) -> None:
    """The engine and the store are away at once: an exception here would acknowledge the message."""
    worker = bench.worker()
    one = bench.submit("print(1)")
    assert bench.store.journal(one).decide(Kind.CLAIMED, "elsewhere", attempt=1, host="elsewhere")

    def away() -> list[Handle]:
        store_of(worker).cut()
        raise EngineUnavailable("The engine does not answer.")

    worker.runtime.find = away  # type: ignore[method-assign]
    result = worker.handle(one)
    del worker.runtime.find
    assert isinstance(result, Deferred)
    assert "engine" in result.why


def test_a_worker_that_is_leaving_claims_nothing_and_gives_the_message_back(bench: Bench) -> None:
    worker = bench.worker()
    one = bench.submit("print(1)")
    worker.detach()
    with pytest.raises(Detached):
        worker.handle(one)
    assert bench.kinds(one) == ["submitted", "queued"]


def test_a_script_that_ran_unseen_costs_an_attempt(bench: Bench) -> None:
    """With --max-attempts 1 it runs at most once, even if its start seemed to fail."""
    worker = bench.worker()
    one = bench.submit("import time; time.sleep(600)", max_attempts=1)
    start = worker.runtime.start

    def start_and_fail(launch: Launch) -> Handle:
        start(launch)
        raise EngineUnavailable("The engine does not answer.")

    worker.runtime.start = start_and_fail  # type: ignore[method-assign]
    result = worker.handle(one)
    assert isinstance(result, Ended)
    assert (result.record["status"], len(result.record["attempts"])) == ("failed", 1)
    assert worker.runtime.find() == []


class EngineAway:
    """Starts what it is told to, and from then on answers nothing before the test lets it."""

    def __init__(self, worker: Supervisor) -> None:
        self.away, self.asked = False, 0
        self._start, self._find = worker.runtime.start, worker.runtime.find
        worker.runtime.start = self.start  # type: ignore[method-assign]
        worker.runtime.find = self.find  # type: ignore[method-assign]

    def start(self, launch: Launch) -> Handle:
        self._start(launch)
        self.away = True
        raise EngineUnavailable("The engine does not answer.")

    def find(self) -> list[Handle]:
        if self.away:
            self.asked += 1
            raise EngineUnavailable("The engine does not answer.")
        return self._find()


def test_a_start_of_which_nobody_knows_is_waited_for_until_the_engine_answers(bench: Bench) -> None:
    """Released before that, the experiment would be begun elsewhere while the first attempt lives."""
    worker = bench.worker()
    one = bench.submit("import time; time.sleep(600)", max_attempts=1)
    engine = EngineAway(worker)
    thread = bench.deliver(worker, one)
    wait_for("questions", lambda: engine.asked > 3)
    assert bench.kinds(one)[-1] == "claimed"
    engine.away = False
    thread.join(60)
    state = bench.state(one)
    assert (state.status, len(state.attempts)) == (Status.FAILED, 1)
    assert worker.runtime.find() == []


def test_who_leaves_before_the_engine_answers_leaves_what_may_have_started_to_the_next(
    bench: Bench, tmp_path: Path
) -> None:
    leaving = bench.worker()
    one = bench.submit(gated(tmp_path / "gate"), max_attempts=1)
    engine = EngineAway(leaving)
    thread = bench.deliver(leaving, one)
    wait_for("questions", lambda: engine.asked > 0)
    leaving.detach()
    thread.join(60)
    assert bench.kinds(one)[-1] == "claimed"
    leaving.close()
    engine.away = False
    bench.worker().start()
    wait_for("the adoption", lambda: "adopted" in bench.kinds(one))
    (tmp_path / "gate").touch()
    wait_for("the end", lambda: bench.state(one).status is Status.FINISHED)
    assert read_log(bench.store, one) == b"first\nlast\n"


def test_what_a_worker_died_over_is_adopted_by_its_neighbour_without_a_message(bench: Bench, tmp_path: Path) -> None:
    """The message may have gone to another host, and a neighbour that started long ago looks around again."""
    neighbour, dying = bench.worker(), bench.worker()
    neighbour.start()
    one = bench.submit(gated(tmp_path / "gate"))
    bench.deliver(dying, one)
    bench.running(one)
    dying.detach()
    bench.threads[-1].join(60)
    dying.close()
    wait_for("the adoption", lambda: "adopted" in bench.kinds(one))
    (tmp_path / "gate").touch()
    wait_for("the end", lambda: bench.state(one).status is Status.FINISHED)
    assert bench.state(one).attempts[0].worker == neighbour.identity.id


def test_what_is_over_is_stopped_by_a_neighbour_though_its_owner_lives_and_is_cut_off(bench: Bench) -> None:
    neighbour, owner = bench.worker(), bench.worker()
    neighbour.start()
    one = bench.submit("import time; time.sleep(600)")
    bench.deliver(owner, one)
    bench.running(one)
    store_of(owner).cut()
    assert bench.store.journal(one).decide(Kind.LOST, "elsewhere", attempt=1, reason="worker lost: test")
    wait_for("the end of what ran", lambda: not neighbour.runtime.find())
    assert bench.kinds(one)[-1] == "lost"


def test_a_stop_just_before_the_end_is_seen_in_the_journal(bench: Bench, tmp_path: Path) -> None:
    """The journal's order decides, not whether a heartbeat came between."""
    worker = bench.worker(heartbeat_seconds=3600.0)
    one = bench.submit(gated(tmp_path / "gate"))
    thread = bench.deliver(worker, one)
    bench.running(one)
    assert bench.store.journal(one).decide(Kind.STOP_REQUESTED, "alice")
    (tmp_path / "gate").touch()
    thread.join(60)
    state = bench.state(one)
    assert (state.status, state.reason, state.exit_code) == (Status.STOPPED, "stopped by alice", 0)


def test_a_heartbeat_that_meets_a_defect_is_not_the_last_one(bench: Bench, tmp_path: Path) -> None:
    """An entry of a newer version, say, must not make a running attempt look dead."""
    worker = bench.worker()
    one = bench.submit(gated(tmp_path / "gate"))
    refused = [True, True]

    def broken(what: str, key: str, data: bytes) -> bool:
        if what == "put" and key.endswith("status.json") and b'"running"' in data and refused:
            refused.pop()
            raise ValueError("a defect of ours")
        return False

    store_of(worker).refuses = broken
    bench.deliver(worker, one)
    bench.running(one)
    wait_for("the defect", lambda: not refused)
    last = bench.store.heartbeat_modified(one, 1)
    wait_for("another heartbeat", lambda: bench.store.heartbeat_modified(one, 1) != last)
    (tmp_path / "gate").touch()
    wait_for("the end", lambda: bench.state(one).status is Status.FINISHED)

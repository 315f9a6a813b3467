"""A stop in every state, by who can do no more than write to the store; and what is given back to others."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from studio import alive, read_log, wait_for
from supervisor_bench import Bench, gated, store_of

from studio_celery.errors import EngineUnavailable, UnknownExperiment
from studio_celery.experiment import Experiment, Status, new_id, utc_now
from studio_celery.journal import Kind
from studio_celery.runtimes.contract import Cancellation, Handle, Launch
from studio_celery.supervisor import Deferred, Ended, Supervisor, attempt

#: Ignores SIGTERM, has a child of its own session that does so, too, and writes an artifact when it is asked to stop.
STUBBORN = (
    "import os, pathlib, signal, subprocess, sys, time\n"
    "kept = pathlib.Path(os.environ['STUDIO_ARTIFACTS'])\n"
    "signal.signal(signal.SIGTERM, lambda *_: (kept / 'last').write_text('x'))\n"
    "sleep = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)'\n"
    "child = subprocess.Popen([sys.executable, '-c', sleep], start_new_session=True)\n"
    "print(os.getpid(), child.pid, flush=True)\n"
    "while True: time.sleep(0.1)\n"
)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path)
    yield one
    one.close()


def record_only(bench: Bench) -> str:
    """An experiment whose submitter has not published it yet."""
    experiment = Experiment(id=new_id(), queue="q", script="a.py", workspace="0" * 64, submitted_at=utc_now())
    bench.store.submit(experiment, "alice")
    return experiment.id


def test_what_nobody_has_is_stopped_at_once(bench: Bench) -> None:
    bench.worker()
    submitting, waiting, released = record_only(bench), bench.submit("print(1)"), bench.submit("print(1)")
    journal = bench.store.journal(released)
    assert journal.decide(Kind.CLAIMED, "w", attempt=1, host="elsewhere")
    assert journal.decide(Kind.RELEASED, "w", epoch=3, reason="r", **{"class": "engine"})
    for one in (submitting, waiting, released):
        record = bench.client().stop(one)
        assert (record["status"], record["reason"]) == ("stopped", "stopped by alice")


def test_what_is_being_prepared_is_stopped_before_it_starts(bench: Bench) -> None:
    worker = bench.worker()

    def prepare(launch: Launch, tell: Any, cancelled: Any) -> None:
        while not cancelled():
            time.sleep(0.01)
        raise Cancellation

    worker.runtime.prepare = prepare  # type: ignore[method-assign]
    one = bench.submit("print(1)")
    bench.deliver(worker, one)
    wait_for("the claim", lambda: bench.state(one).status is Status.PREPARING)
    assert bench.client().stop(one)["status"] == "preparing"
    state = wait_for("the end", lambda: (s := bench.state(one)).status.terminal and s)
    assert (state.status, state.reason, state.started_at) == (Status.STOPPED, "stopped by alice", None)
    assert worker.runtime.find() == []


def test_what_runs_gets_a_grace_then_all_of_it_is_killed_and_its_last_artifacts_are_kept(bench: Bench) -> None:
    worker = bench.worker(stop_grace_seconds=3.0)
    one = bench.submit(STUBBORN)
    thread = bench.deliver(worker, one)
    bench.running(one)
    pids = wait_for("its pids", lambda: read_log(bench.store, one).endswith(b"\n") and read_log(bench.store, one))
    assert bench.client().stop(one)["status"] == "running"
    thread.join(60)
    state = bench.state(one)
    assert (state.status, state.reason, state.exit_code) == (Status.STOPPED, "stopped by alice", 137)
    assert not any(alive(int(pid)) for pid in pids.split())
    assert [item.key for item in bench.store.artifact_files(one, 1)] == ["output/last"]
    assert list(state.artifacts) == [{"tag": "output", "files": 1, "bytes": 1}]


#: Says its pid; when that is heard writes its own end, as if it had ended well, and lives on.
PRETENDER = (
    "import json, os, pathlib, time\n"
    "io = pathlib.Path(os.environ['STUDIO_ARTIFACTS']).parent / 'io'\n"
    "print(os.getpid(), flush=True)\n"
    "while not (io / 'log').stat().st_size: time.sleep(0.01)\n"
    "(io / 'end').write_text(json.dumps({'exit_code': 0}))\n"
    "(io / 'end').rename(io / 'exit.json')\n"
    "time.sleep(600)\n"
)


def test_nothing_is_kept_of_a_script_that_wrote_its_own_end_before_it_is_dead(bench: Bench) -> None:
    """It could exchange its files for links to the host's while they are read; an engine that is away may come back."""
    worker, lived, asked = bench.worker(stop_grace_seconds=0.2), [], []
    stop, listed = worker.runtime.stop, attempt.collect

    def stop_at_the_third_time(handle: Handle, grace_seconds: float) -> None:
        asked.append(1)
        if len(asked) < 3:
            raise EngineUnavailable("The engine does not answer.")
        stop(handle, grace_seconds)

    def collect(artifacts: Path, *more: Any) -> Any:
        lived.append(any(alive(int(handle.ref)) for handle in worker.runtime.find()))
        return listed(artifacts, *more)

    worker.runtime.stop = stop_at_the_third_time  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempt, "collect", collect)
        one = bench.submit(PRETENDER)
        assert isinstance(worker.handle(one), Ended)
    assert lived == [False]
    assert not alive(int(read_log(bench.store, one)))


def test_a_stop_does_not_wait_for_an_owner_that_is_dead(bench: Bench, tmp_path: Path) -> None:
    """Its host is away with all that runs there. What is left of it is put down when its host is back."""
    dead, one = bench.worker(), bench.submit("import time; time.sleep(600)")
    thread = bench.deliver(dead, one)
    bench.running(one)
    store_of(dead).cut()
    assert bench.client(patience_floor_seconds=3600.0).stop(one)["status"] == "running"
    client = bench.client(patience_floor_seconds=0.5)
    record = wait_for("silence", lambda: (found := client.show(one))["status"] != "running" and found)
    assert (record["status"], record["reason"]) == ("stopped", "stopped by alice")
    assert [attempt["status"] for attempt in record["attempts"]] == ["lost"]
    assert bench.kinds(one)[-3:] == ["stop requested", "lost", "stopped"]
    assert len(dead.runtime.find()) == 1
    store_of(dead).heal()
    thread.join(60)
    assert dead.runtime.find() == []
    assert bench.kinds(one)[-1] == "stopped"


def test_a_stop_is_never_declared_over_an_owner_that_lives(bench: Bench, tmp_path: Path) -> None:
    worker, one = bench.worker(), bench.submit(gated(tmp_path / "gate"))
    bench.deliver(worker, one)
    bench.running(one)
    wait_for("its heartbeat", lambda: bench.store.heartbeat_modified(one, 1))
    for entry in (Path(bench.store.url) / "experiments" / one / "journal").glob("*.json"):
        os.utime(entry, (time.time() - 3600,) * 2)  # only its heartbeat says that it lives
    client = bench.client(patience_floor_seconds=20.0)  # longer than this process, owner and onlooker, may stand still
    client.stop(one)
    while not (record := client.show(one))["finished_at"]:
        assert record["status"] == "running"
    assert "lost" not in bench.kinds(one)


# -- given back to others --------------------------------------------------------------------------------------------


def break_starts(worker: Supervisor) -> None:
    def start(launch: Launch) -> Handle:
        raise EngineUnavailable("The engine does not answer.")

    worker.runtime.start = start  # type: ignore[method-assign]


def test_what_one_worker_cannot_start_another_begins_at_once(bench: Bench) -> None:
    first, second = bench.worker(defer_seconds=600.0), bench.worker()
    break_starts(first)
    one = bench.submit("print('ran')")
    assert first.handle(one) == Deferred(0.0, "The engine does not answer.")
    again = first.handle(one)
    assert isinstance(again, Deferred)
    assert 0 < again.seconds <= 600 / 32 + 1
    result = second.handle(one)
    assert isinstance(result, Ended)
    assert [attempt["worker"] for attempt in result.record["attempts"]] == [first.identity.id, second.identity.id]


def test_workers_that_all_cannot_start_it_do_not_hand_it_round_without_a_pause(bench: Bench) -> None:
    workers = [bench.worker(defer_seconds=600.0) for _ in range(2)]
    for worker in workers:
        break_starts(worker)
    one = bench.submit("print('ran')")
    results = [worker.handle(one) for worker in workers * 5]
    assert all(isinstance(result, Deferred) for result in results)
    assert bench.kinds(one).count("claimed") == 2


def test_the_only_worker_tries_again_when_it_has_left_it_to_others_long_enough(bench: Bench) -> None:
    worker = bench.worker(defer_seconds=0.3)
    start = worker.runtime.start
    break_starts(worker)
    one = bench.submit("print('ran')")
    assert worker.handle(one) == Deferred(0.0, "The engine does not answer.")
    worker.runtime.start = start  # type: ignore[method-assign]
    wait_for("its next try", lambda: isinstance(worker.handle(one), Ended))
    assert bench.kinds(one)[2:] == ["claimed", "released", "claimed", "started", "finished"]
    journal = bench.store.journal(one)
    journal.refresh()
    _, released, claimed = (entry.stored_at for entry in journal.entries[2:5])
    assert claimed - released >= 0.2


# -- who was away ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", ["before the outage", "in it"])
def test_after_an_outage_of_the_store_nobody_takes_for_dead_who_was_only_cut_off_like_themselves(
    bench: Bench, tmp_path: Path, begun: str
) -> None:
    """It outlasted the patience for all. Whoever gets a second message first must not begin a second attempt."""
    owner, other = bench.worker(heartbeat_seconds=0.3), bench.worker(heartbeat_seconds=0.3)
    one = bench.submit(gated(tmp_path / "gate"))
    bench.deliver(owner, one)
    bench.running(one)
    if begun == "before the outage":
        other.pulse.beat()
    for worker in (owner, other):
        store_of(worker).cut()
    beat = bench.store.heartbeat_modified(one, 1) or 0.0
    wait_for("the patience", lambda: bench.store.now() - beat > 1.2 * owner.settings.patience_floor_seconds)
    store_of(other).heal()  # the owner's next heartbeat comes later
    bench.deliver(other, one).join(60)
    assert [type(result) for result in bench.results] == [Deferred]
    store_of(owner).heal()
    (tmp_path / "gate").touch()
    wait_for("the end", lambda: bench.state(one).status is Status.FINISHED)
    assert bench.kinds(one) == ["submitted", "queued", "claimed", "started", "finished"]
    assert read_log(bench.store, one) == b"first\nlast\n"


def test_a_message_of_another_record_than_the_stores_runs_nothing(bench: Bench) -> None:
    worker, one = bench.worker(), bench.submit("print(1)")
    experiment = bench.state(one).experiment
    with pytest.raises(UnknownExperiment, match="of another experiment"):
        worker.handle(one, bench.store.url, "0" * 64)
    assert bench.kinds(one) == ["submitted", "queued"]
    assert isinstance(worker.handle(one, bench.store.url, experiment.digest()), Ended)


def test_notes_of_what_went_elsewhere_are_forgotten(bench: Bench) -> None:
    worker = bench.worker(defer_ceiling_seconds=1.0)  # for three of which it is remembered
    one = bench.submit("print(1)", max_attempts=1)
    assert bench.store.journal(one).decide(Kind.CLAIMED, "elsewhere", attempt=1, host=os.uname().nodename + "x")
    worker._deferrals.defer(one, "no room")
    assert bench.store.workers()[0]["cannot_take"] == {one: "no room"}
    wait_for("forgetting", lambda: worker.pulse.beat() and bench.store.workers()[0]["cannot_take"] == {})


def test_an_entry_of_a_newer_version_defers_and_says_so(bench: Bench) -> None:
    worker, one = bench.worker(), bench.submit("print(1)")
    assert bench.store.objects.create(
        f"experiments/{one}/journal/000003.json", b'{"schema": 2, "kind": "later", "by": "x", "at": "t"}'
    )
    result = worker.handle(one)
    assert isinstance(result, Deferred)
    assert result.why.endswith("upgrade studio-celery.")

"""What Celery is told about experiments, derived from journals that a supervisor might have written."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backend_bench import LIMIT, application, request
from celery import Celery, states
from celery.exceptions import TaskRevokedError, TimeoutError
from studio import submit

from studio_celery.errors import ExperimentFailed
from studio_celery.experiment import Experiment, new_id, utc_now
from studio_celery.journal import Kind
from studio_celery.store import Journal, Store
from studio_celery.submission.request import EXPERIMENT_TASK

TRACEBACK = 'Traceback (most recent call last):\n  File "script.py", line 1\nValueError: no'


@pytest.fixture
def app(store_url: str) -> Celery:
    return application(store_url)


@pytest.fixture
def journal(app: Celery, tmp_path: Path) -> Journal:
    """The journal of an experiment that waits."""
    return _journal(app.backend.store, submit(app.backend.store, tmp_path, "print()", "--lr", "1"))


def _journal(store: Store, experiment_id: str) -> Journal:
    journal = store.journal(experiment_id)
    journal.refresh()
    return journal


def claim(journal: Journal) -> None:
    number = len(journal.state.attempts) + 1
    assert journal.decide(Kind.CLAIMED, "w1", attempt=number, host="h", gpus=[])


def start(journal: Journal) -> None:
    claim(journal)
    assert journal.decide(Kind.STARTED, "w1", epoch=journal.state.owner_epoch)


def end(journal: Journal, kind: Kind, **data: Any) -> None:
    start(journal)
    assert journal.decide(kind, "w1", epoch=journal.state.owner_epoch, **data)


def expire(journal: Journal) -> None:
    assert journal.decide(Kind.EXPIRED, "w1", reason="too late")


def stop(journal: Journal) -> None:
    assert journal.decide(Kind.STOP_REQUESTED, "alice")
    assert journal.decide(Kind.STOPPED, "alice", reason="stopped by alice")


@pytest.mark.parametrize(
    ("happens", "state"),
    [
        (lambda journal: None, states.PENDING),
        (claim, states.STARTED),
        (start, states.STARTED),
        (lambda journal: end(journal, Kind.RELEASED, **{"class": "engine", "reason": "gone"}), states.PENDING),
        (lambda journal: end(journal, Kind.FINISHED, exit_code=0), states.SUCCESS),
        (lambda journal: end(journal, Kind.FAILED, exit_code=1, reason="exit code 1"), states.FAILURE),
        (stop, states.REVOKED),
        (expire, states.FAILURE),
    ],
)
def test_each_state_has_celerys_word(
    app: Celery, journal: Journal, happens: Callable[[Journal], None], state: str
) -> None:
    happens(journal)
    result = app.AsyncResult(journal.experiment_id)
    assert (result.state, result.ready(), result.exists()) == (state, state in states.READY_STATES, True)
    assert (result.name, result.queue, result.args) == (EXPERIMENT_TASK, "q", ["script.py", ["--lr", "1"]])


def test_while_it_runs_info_says_what_happens(app: Celery, journal: Journal) -> None:
    result = app.AsyncResult(journal.experiment_id)
    assert result.info["status"] == "waiting"
    claim(journal)
    assert (result.info["status"], result.info["attempt"], result.info["phase"]) == ("preparing", 1, "preparing")
    app.backend.store.heartbeat(journal.experiment_id, 1, {"phase": "pulling"})
    assert (result.info["worker"], result.info["phase"]) == ("w1", "pulling")


def test_the_record_of_a_finished_one_is_the_result(app: Celery, journal: Journal) -> None:
    end(journal, Kind.FINISHED, exit_code=0)
    result = app.AsyncResult(journal.experiment_id)
    record = result.get(timeout=0)
    assert (record["id"], record["status"], len(record["attempts"])) == (journal.experiment_id, "finished", 1)
    assert result.date_done.isoformat(timespec="milliseconds") == record["finished_at"].replace("Z", "+00:00")
    assert (result.children, result.traceback) == ([], None)


def test_a_failed_one_raises_what_says_why(app: Celery, journal: Journal) -> None:
    end(journal, Kind.FAILED, exit_code=7, reason="exit code 7")
    with pytest.raises(ExperimentFailed, match="exit code 7") as caught:
        app.AsyncResult(journal.experiment_id).get(timeout=0)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.id, copy.reason, copy.exit_code) == (journal.experiment_id, "exit code 7", 7)
    assert copy.record["status"] == "failed"
    assert len(repr(copy)) < 100


def test_the_traceback_is_the_last_one_of_its_output(app: Celery, journal: Journal, tmp_path: Path) -> None:
    start(journal)
    log = tmp_path / "log"
    log.write_text("x" * 100_000 + "\nTraceback (most recent call last): an old one\nfine\n" + TRACEBACK + "\n")
    attempt = journal.state.attempts[0]
    app.backend.store.log_writer(journal.experiment_id, 1, attempt.epoch, 0).copy(log)
    journal.decide(Kind.FAILED, "w1", epoch=attempt.epoch, exit_code=1, reason="exit code 1")
    assert app.AsyncResult(journal.experiment_id).traceback == TRACEBACK


def test_what_celery_says_about_it_changes_nothing(app: Celery, journal: Journal) -> None:
    task_id = journal.experiment_id
    for said in (states.RETRY, states.FAILURE, states.SUCCESS):
        app.backend.store_result(task_id, None, said, request=request(task_id, task=EXPERIMENT_TASK))
        assert app.AsyncResult(task_id).state == states.PENDING
    app.backend.mark_as_revoked(task_id)
    assert app.AsyncResult(task_id).state == states.PENDING
    start(journal)
    app.AsyncResult(task_id).forget()
    assert app.AsyncResult(task_id).state == states.STARTED


def test_celery_adds_what_followed_it(app: Celery, journal: Journal) -> None:
    end(journal, Kind.FINISHED, exit_code=0)
    call = request(journal.experiment_id, task=EXPERIMENT_TASK, children=[app.AsyncResult("next")], group="g")
    app.backend.mark_as_done(journal.experiment_id, {}, call)
    result = app.AsyncResult(journal.experiment_id)
    assert [child.id for child in result.children] == ["next"]
    assert result.result["status"] == "finished"


def test_one_that_is_never_submitted_fails_with_its_predecessor(app: Celery, journal: Journal) -> None:
    end(journal, Kind.FAILED, exit_code=7, reason="exit code 7")
    after = {"task": EXPERIMENT_TASK, "args": [], "kwargs": {}, "options": {"task_id": "later-in-the-chain"}}
    failed = app.AsyncResult(journal.experiment_id).result
    call = request(journal.experiment_id, task=EXPERIMENT_TASK, chain=[after])
    app.backend.mark_as_failure(journal.experiment_id, failed, request=call)
    with pytest.raises(ExperimentFailed, match="exit code 7"):
        app.AsyncResult("later-in-the-chain").get(timeout=0)


def test_a_submission_that_failed_half_way_is_a_failure(app: Celery) -> None:
    store: Store = app.backend.store
    experiment = Experiment(id=new_id(), queue="q", script="a.py", workspace="0" * 64, submitted_at=utc_now())
    store.submit(experiment, "alice")
    assert app.AsyncResult(experiment.id).state == states.PENDING
    app.backend.mark_as_failure(experiment.id, ValueError("no broker"))
    with pytest.raises(ValueError, match="no broker"):
        app.AsyncResult(experiment.id).get(timeout=0)


def test_a_revoked_task_that_was_never_an_experiment_stays_revoked(app: Celery) -> None:
    app.backend.mark_as_revoked("a")
    with pytest.raises(TaskRevokedError):
        app.AsyncResult("a").get(timeout=0)


def test_looking_at_a_running_one_again_costs_one_request(
    app: Celery, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(journal)
    app.AsyncResult(journal.experiment_id).state  # noqa: B018
    asked: list[str] = []
    objects = app.backend.store.objects
    monkeypatch.setattr(objects, "get_dated", lambda key: asked.append(key) or type(objects).get_dated(objects, key))
    looks = [0]

    def look() -> None:
        looks[0] += 1

    with pytest.raises(TimeoutError):
        app.backend.wait_for(journal.experiment_id, timeout=0.3, on_interval=look)
    assert 0 < len(asked) == looks[0]


def test_many_of_both_kinds_are_waited_for_together(app: Celery, tmp_path: Path) -> None:
    store = app.backend.store
    ids = [submit(store, tmp_path, "print()") for _ in range(3)]
    app.backend.mark_as_done("plain", 5, request("plain"))
    group = app.GroupResult("g", [app.AsyncResult(i) for i in [*ids, "plain"]])
    assert group.completed_count() == 1
    for experiment_id in ids:
        end(_journal(store, experiment_id), Kind.FINISHED, exit_code=0)
    values = group.get(timeout=LIMIT)
    assert [value["id"] for value in values[:3]] == ids
    assert values[3] == 5


def test_a_forked_process_sees_results_although_its_parent_did(app: Celery, journal: Journal) -> None:
    app.backend.mark_as_done("a", 1, request("a"))
    assert app.AsyncResult("a").get(timeout=0) == 1
    end(journal, Kind.FINISHED, exit_code=0)
    pid = os.fork()
    if pid == 0:
        good = False
        signal.alarm(120)  # what is wrong here hangs
        try:
            app.backend.mark_as_done("b", 2, request("b"))
            good = app.AsyncResult(journal.experiment_id).get(timeout=LIMIT)["status"] == "finished"
        finally:
            os._exit(0 if good else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert app.AsyncResult("b").get(timeout=0) == 2


def test_who_waits_for_a_result_records_that_its_lifetime_is_over(app: Celery, tmp_path: Path) -> None:
    store = app.backend.store
    one = submit(store, tmp_path, "print()", lifetime_seconds=0.2)
    with pytest.raises(ExperimentFailed, match=r"waited longer than --lifetime 0\.2s"):
        app.AsyncResult(one).get(timeout=LIMIT)
    entries = _journal(store, one).entries
    assert (entries[-1].kind, entries[-1].by) == (Kind.EXPIRED, "result backend")


def test_a_stop_whose_owner_is_silent_is_recorded_by_who_waits(
    app: Celery, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(journal)
    assert app.AsyncResult(journal.experiment_id).state == states.STARTED
    assert journal.decide(Kind.STOP_REQUESTED, "alice")
    monkeypatch.setenv("STUDIO_PATIENCE_FLOOR_SECONDS", "0.5")
    monkeypatch.setenv("STUDIO_HEARTBEAT_SECONDS", "0.1")
    app.backend._place = None
    with pytest.raises(ExperimentFailed, match="stopped by alice"):
        app.AsyncResult(journal.experiment_id).get(timeout=LIMIT)
    journal.refresh()
    assert [entry.kind for entry in journal.entries[-2:]] == [Kind.LOST, Kind.STOPPED]

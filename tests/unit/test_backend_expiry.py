"""What `celery.backend_cleanup` drops, on a directory whose objects are made older."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from backend_bench import application, request
from celery import Celery
from celery.app.task import Context
from studio import submit

from studio_celery.backend.experiments import Experiments
from studio_celery.journal import Kind
from studio_celery.settings import Settings
from studio_celery.submission.request import EXPERIMENT_TASK

DAY = 86400


@pytest.fixture
def app(tmp_path: Path) -> Celery:
    return application(str(tmp_path / "store"), result_expires=DAY)


def age(tmp_path: Path, seconds: float, below: str = "") -> None:
    """Make everything that is kept below a folder of the store older."""
    for path in (tmp_path / "store" / below).rglob("*"):
        if path.is_file():
            os.utime(path, (path.stat().st_atime - seconds, path.stat().st_mtime - seconds))


def kept(app: Celery) -> set[str]:
    return {item.key.removeprefix("celery/") for item in app.backend.store.objects.listing("celery")}


def test_old_results_go_and_new_ones_stay(app: Celery, tmp_path: Path) -> None:
    app.backend.mark_as_done("old", 1, request("old"))
    age(tmp_path, 2 * DAY)
    app.backend.mark_as_done("new", 1, request("new"))
    app.tasks["celery.backend_cleanup"]()
    assert kept(app) == {"results/new"}


@pytest.mark.parametrize("expires", [None, 0])
def test_without_an_age_nothing_goes(tmp_path: Path, expires: int | None) -> None:
    app = application(str(tmp_path / "store"), result_expires=expires)
    app.backend.mark_as_done("old", 1, request("old"))
    age(tmp_path, 1000 * DAY)
    app.backend.cleanup()
    assert kept(app) == {"results/old"}


def test_experiments_are_never_touched(app: Celery, tmp_path: Path) -> None:
    experiment = submit(app.backend.store, tmp_path, "print()")
    app.backend.store.journal(experiment).decide(Kind.FAILED, "w", reason="no")
    age(tmp_path, 1000 * DAY)
    before = [item.key for item in app.backend.store.objects.listing("experiments")]
    app.backend.cleanup()
    assert [item.key for item in app.backend.store.objects.listing("experiments")] == before
    assert app.AsyncResult(experiment).state == "FAILURE"


@pytest.fixture
def waiting(app: Celery, tmp_path: Path) -> str:
    """An experiment in a chord and in a saved group; all is old."""
    experiment = submit(app.backend.store, tmp_path, "print()")
    header = [app.AsyncResult("plain"), app.AsyncResult(experiment)]
    app.backend.apply_chord(("g", header), app.signature("body"))
    app.backend.set_chord_size("g", 2)
    app.backend.mark_as_done("plain", 1, request("plain", group="g", chord=dict(app.signature("body"))))
    app.GroupResult("saved", [app.GroupResult("inner", header)]).save()
    app.GroupResult("other", [app.AsyncResult("plain")]).save()
    age(tmp_path, 10 * DAY)
    return experiment


def test_what_waits_for_an_experiment_is_kept_until_long_after_its_end(
    app: Celery, waiting: str, tmp_path: Path
) -> None:
    chord = {"chords/g/header", "chords/g/size", "chords/g/part/plain"}
    app.backend.cleanup()
    assert kept(app) == {"groups/saved", *chord}
    app.backend.store.journal(waiting).decide(Kind.FAILED, "w", reason="no")
    app.backend.cleanup()
    assert kept(app) == {"groups/saved", *chord}
    age(tmp_path, 2 * DAY, "experiments")
    app.backend.cleanup()
    assert kept(app) == chord
    age(tmp_path, 30 * DAY, "experiments")
    app.backend.cleanup()
    assert kept(app) == set()


def test_a_finished_chord_is_forgotten(app: Celery, tmp_path: Path) -> None:
    app.backend.chord("g").finish()
    app.backend.cleanup()
    assert kept(app) == {"chords/g/done"}
    for days, left in ((30, {"chords/g/done"}), (2, set())):
        age(tmp_path, days * DAY)
        app.backend.cleanup()
        assert kept(app) == left


@pytest.fixture
def ended(app: Celery, tmp_path: Path) -> Context:
    """The request of an experiment that has ended: the only part of a chord that is done, and with a link."""
    experiment = submit(app.backend.store, tmp_path, "print()")
    journal = app.backend.store.journal(experiment)
    for kind, data in ((Kind.CLAIMED, {"attempt": 1, "host": "h"}), (Kind.STARTED, {}), (Kind.FINISHED, {})):
        journal.refresh()
        assert journal.decide(kind, "w", **({"epoch": journal.state.owner_epoch} | data), exit_code=0)
    app.backend.apply_chord(("g", [app.AsyncResult(experiment)]), app.signature("body"))
    app.backend.set_chord_size("g", 1)
    asked = request(
        experiment, task=EXPERIMENT_TASK, group="g", chord=dict(app.signature("body", task_id="b")), ignore_result=True
    )
    asked.children.append(app.AsyncResult("linked"))
    app.backend.mark_as_done(experiment, {}, asked, store_result=False)
    assert [each.id for each in app.backend.called(asked)] == ["linked"]
    assert "chords/g/done" in kept(app)
    return asked


@pytest.mark.parametrize("days", [2, 40])
def test_one_more_message_long_after_a_cleanup_fails_no_chord_and_calls_no_link(
    app: Celery, ended: Context, tmp_path: Path, days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(tmp_path, days * DAY)
    app.backend.cleanup()
    assert ("chords/g/done" in kept(app)) is (days == 2)
    assert [each.id for each in app.backend.called(ended)] == ["linked"]
    monkeypatch.setattr(app.backend, "chord_error_from_stack", lambda *args, **options: pytest.fail("a chord failed"))
    monkeypatch.setattr(app.amqp, "_retry_publish", lambda *args, **options: pytest.fail("a body was published"))
    app.backend.mark_as_done(ended.id, {}, ended)


def test_a_chord_that_somebody_took_away_fails_for_an_experiment_that_just_ended(
    app: Celery, ended: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.backend.chord("g").clear()
    failed: list[object] = []
    monkeypatch.setattr(app.backend, "chord_error_from_stack", lambda callback, exc: failed.append(exc))
    app.backend.on_chord_part_return(ended, "SUCCESS", {})
    assert "no longer exists" in str(failed)


def test_what_an_experiment_called_goes_with_its_journal(app: Celery, ended: Context, tmp_path: Path) -> None:
    key = f"results/{ended.id}"
    assert key in kept(app)
    age(tmp_path, 100 * DAY)
    app.backend.cleanup()
    assert key in kept(app)
    for path in (tmp_path / "store" / "experiments" / ended.id / "journal").iterdir():
        path.unlink()
    app.backend.cleanup()
    assert kept(app) == set()


def test_an_end_is_dated_by_the_store(app: Celery, tmp_path: Path) -> None:
    experiments = Experiments(app.backend.store, Settings())
    running = submit(app.backend.store, tmp_path, "print()")
    assert (experiments.settled_at("nobody"), experiments.settled_at(running)) == (float("-inf"), float("inf"))

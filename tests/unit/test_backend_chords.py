"""Chords in the store, part by part: each counts once, the last one publishes the body, and no end is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backend_bench import LIMIT, application, request, worker
from celery import Celery, chain, chord, group, states
from celery.exceptions import ChordError
from studio import submit, wait_for

from studio_celery.errors import StoreError
from studio_celery.journal import Kind
from studio_celery.store import Item
from studio_celery.submission.request import EXPERIMENT_TASK


class Bench:
    """A chord whose body is noted instead of published."""

    def __init__(self, app: Celery, *ids: str, **parts: str) -> None:
        self.app = app
        self.bodies: list[Any] = []
        self.broken = False
        app.task(name="body")(_same)
        app.tasks["body"].apply_async = self._publish
        self.body = app.signature("body", task_id="body-id")
        header = [app.AsyncResult(i) for i in ids]
        app.backend.apply_chord(("g", header), self.body)
        app.backend.set_chord_size("g", len(ids))

    def _publish(self, args: Any = None, kwargs: Any = None, **options: Any) -> None:
        if self.broken:
            raise OSError("no broker")
        self.bodies.append((options["task_id"], *args))

    def part(self, task_id: str, result: Any = None, state: str = states.SUCCESS, **fields: Any) -> None:
        call = request(task_id, group="g", chord=dict(self.body), **fields)
        if state == states.SUCCESS:
            self.app.backend.mark_as_done(task_id, result, call)
        else:
            self.app.backend.mark_as_failure(task_id, result, request=call)


@pytest.fixture
def app(store_url: str) -> Celery:
    return application(store_url)


class TestParts:
    def test_the_last_one_publishes_the_body_in_the_headers_order(self, app: Celery) -> None:
        bench = Bench(app, "a", "b", "c")
        for task_id in ("c", "a"):
            bench.part(task_id, task_id.upper())
            assert bench.bodies == []
        bench.part("b", "B")
        assert bench.bodies == [("body-id", ["A", "B", "C"])]

    def test_one_that_is_delivered_twice_counts_once(self, app: Celery) -> None:
        bench = Bench(app, "a", "b")
        for _ in range(3):
            bench.part("a", 1)
        assert bench.bodies == []
        for _ in range(3):
            bench.part("b", 2)
        assert bench.bodies == [("body-id", [1, 2])]

    def test_of_many_that_return_at_once_one_publishes(self, app: Celery) -> None:
        ids = [f"t{number}" for number in range(12)]
        bench = Bench(app, *ids)
        barrier = threading.Barrier(len(ids))

        def run(task_id: str) -> None:
            barrier.wait()
            bench.part(task_id, task_id)

        threads = [threading.Thread(target=run, args=(task_id,)) for task_id in ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert bench.bodies == [("body-id", ids)]

    def test_the_size_may_come_before_the_last_part_only(self, app: Celery) -> None:
        bench = Bench(app, "a", "b")
        app.backend.store.objects.delete("celery/chords/g/size")
        bench.part("a", 1)
        app.backend.set_chord_size("g", 2)
        bench.part("b", 2)
        assert bench.bodies == [("body-id", [1, 2])]

    def test_results_need_not_be_kept_or_remembered(self, app: Celery) -> None:
        bench = Bench(app, "a", "b")
        bench.part("a", 1, ignore_result=True)
        bench.part("b", 2)
        assert bench.bodies == [("body-id", [1, 2])]

    def test_what_a_part_adds_is_waited_for(self, app: Celery) -> None:
        bench = Bench(app, "a", "b")
        app.backend.add_to_chord("g", app.AsyncResult("more"))
        bench.part("a", 1)
        bench.part("b", 2)
        assert bench.bodies == []
        bench.part("more", 3)
        assert bench.bodies == [("body-id", [1, 2, 3])]

    def test_a_chord_that_runs_again_counts_anew(self, app: Celery) -> None:
        first = Bench(app, "a")
        first.part("a", 1)
        again = Bench(app, "a")
        again.part("a", 2)
        assert (first.bodies, again.bodies) == ([("body-id", [1])], [("body-id", [2])])

    def test_little_is_left_of_it(self, app: Celery) -> None:
        bench = Bench(app, "a", "b")
        bench.part("a", 1)
        bench.part("b", 2)
        left = [item.key for item in app.backend.store.objects.listing("celery/chords")]
        assert left == ["celery/chords/g/claim", "celery/chords/g/done"]

    def test_who_counted_before_it_was_finished_does_not_publish_again(self, app: Celery) -> None:
        bench = Bench(app, "a", "b")
        bench.part("a", 1)
        late = app.backend.chord("g")
        late.return_part("b", b"")
        counted = late.complete(late.census())
        assert counted is not None
        app.backend.store.objects.delete(late.part_key("b"))
        bench.part("b", 2)
        assert not late.claim("a")
        assert not late.claim("b")
        assert bench.bodies == [("body-id", [1, 2])]

    def test_a_listing_from_the_middle_of_the_cleaning_fails_nothing(
        self, app: Celery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bench = Bench(app, "a")
        bench.part("a", 1)
        objects = app.backend.store.objects

        def listing(prefix: str) -> list[Item]:
            return [item for item in type(objects).listing(objects, prefix) if not item.key.endswith("/done")]

        monkeypatch.setattr(objects, "listing", listing)
        bench.part("a", 1)
        assert bench.bodies == [("body-id", [1])]
        assert app.AsyncResult("body-id").state == states.PENDING


class TestFailures:
    def test_one_that_fails_fails_the_body_when_all_have_returned(self, app: Celery) -> None:
        bench = Bench(app, "a", "b")
        bench.part("a", ValueError("so it is"), states.FAILURE)
        assert app.AsyncResult("body-id").state == states.PENDING
        bench.part("b", 2)
        with pytest.raises(ChordError, match="Dependency a raised ValueError"):
            app.AsyncResult("body-id").get(timeout=0)
        assert bench.bodies == []

    def test_a_body_that_cannot_be_published_has_failed(self, app: Celery) -> None:
        bench = Bench(app, "a")
        bench.broken = True
        bench.part("a", 1)
        with pytest.raises(ChordError, match="no broker"):
            app.AsyncResult("body-id").get(timeout=0)

    def test_a_chord_that_nobody_remembers_fails(self, app: Celery) -> None:
        bench = Bench(app, "a", "b")
        for item in app.backend.store.objects.listing("celery/chords"):
            app.backend.store.objects.delete(item.key)
        bench.part("a", 1)
        with pytest.raises(ChordError, match="no longer exists"):
            app.AsyncResult("body-id").get(timeout=0)

    def test_who_dies_while_publishing_publishes_at_the_next_delivery(self, app: Celery) -> None:
        bench = Bench(app, "a", "b")
        bench.part("a", 1)
        chord_ = app.backend.chord("g")
        chord_.return_part("b", app.backend.encode({"id": "b", "status": "SUCCESS", "result": 2}).encode())
        assert chord_.claim("b")
        bench.part("a", 1)
        assert bench.bodies == []
        bench.part("b", 2)
        assert bench.bodies == [("body-id", [1, 2])]

    def test_a_store_that_does_not_answer_is_asked_again_for_an_experiment(
        self, app: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        experiment = submit(app.backend.store, tmp_path, "print()")
        bench, failures, objects = Bench(app, experiment), [1, 2], app.backend.store.objects
        app.backend.store.journal(experiment).decide(Kind.FAILED, "w", reason="no")

        def create(key: str, data: bytes) -> bool:
            if failures:
                raise StoreError(f"away {failures.pop()}")
            return bool(type(objects).create(objects, key, data))

        monkeypatch.setattr(objects, "create", create)
        monkeypatch.setattr("studio_celery.backend.joining.time.sleep", lambda seconds: None)
        with pytest.raises(StoreError):
            bench.part("plain", 1)
        bench.part(experiment, None, task=EXPERIMENT_TASK)
        assert failures == []


def test_an_experiments_part_is_what_its_journal_says(app: Celery, tmp_path: Path) -> None:
    ids = [submit(app.backend.store, tmp_path, "print()") for _ in range(2)]
    bench = Bench(app, *ids)
    for experiment_id in ids:
        journal = app.backend.store.journal(experiment_id)
        journal.refresh()
        journal.decide(Kind.CLAIMED, "w", attempt=1, host="h", gpus=[])
        journal.decide(Kind.STARTED, "w", epoch=journal.state.owner_epoch)
        journal.decide(Kind.FINISHED, "w", epoch=journal.state.owner_epoch, exit_code=0)
        bench.part(experiment_id, {"told": "something else"}, task=EXPERIMENT_TASK)
    assert [(record["id"], record["status"]) for record in bench.bodies[0][1]] == [(i, "finished") for i in ids]


class Tasks:
    """An application with tasks, and a worker that runs them."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.add = app.task(name="add")(_add)
        self.total = app.task(name="total")(_total)
        self.same = app.task(name="same")(_same)
        self.fail = app.task(name="fail")(_fail)
        self.grow = app.task(name="grow", bind=True)(_grow)
        self.hear = app.task(name="hear")(_hear)


#: What the errback was told, by a worker of this process.
heard: list[str] = []


def _hear(task_id: str) -> None:
    heard.append(task_id)


def _add(x: int, y: int) -> int:
    return x + y


def _total(numbers: list[int]) -> int:
    return sum(numbers)


def _same(value: Any) -> Any:
    return value


def _fail(text: str) -> None:
    raise ValueError(text)


def _grow(self: Any, number: int) -> int:
    self.add_to_chord(self.app.tasks["add"].s(number, 100))
    return number


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tasks]:
    tasks = Tasks(application(str(tmp_path_factory.mktemp("store"))))
    with worker(tasks.app):
        yield tasks


class TestCanvas:
    def test_no_task_polls(self, tasks: Tasks) -> None:
        tasks.app.tasks["celery.chord_unlock"].run = _fail
        assert chord([tasks.add.s(n, n) for n in range(30)])(tasks.total.s()).get(timeout=LIMIT) == 870

    def test_headers_of_every_kind(self, tasks: Tasks) -> None:
        add, same, total = tasks.add, tasks.same, tasks.total
        cases: list[tuple[Any, Any]] = [
            ([add.s(1, 1)], [2]),
            ((add.s(n, n) for n in range(5)), [0, 2, 4, 6, 8]),
            ([chain(add.s(1, 1), add.s(1)), add.s(5, 5)], [3, 10]),
            ([chord([add.s(1, 1), add.s(2, 2)], total.s()), add.s(5, 5)], [6, 10]),
            ([], []),
        ]
        for header, values in cases:
            assert chord(header)(same.s()).get(timeout=LIMIT) == values
        assert sorted(chord([tasks.grow.s(1), tasks.grow.s(2)])(same.s()).get(timeout=LIMIT)) == [1, 2, 101, 102]
        nested = chord([group(add.s(1, 1), add.s(2, 2)), add.s(5, 5)])(same.s())
        assert sorted(nested.get(timeout=LIMIT)) == [2, 4, 10]

    def test_groups_become_chords_and_bodies_go_on(self, tasks: Tasks) -> None:
        add, total = tasks.add, tasks.total
        flow = group(add.s(1, 1), add.s(2, 2)) | total.s() | group(add.s(1), add.s(2)) | total.s() | add.s(1)
        assert flow().get(timeout=LIMIT) == 16
        assert chord([add.s(1, 1)], group(total.s(), tasks.same.s()))().get(timeout=LIMIT) == [2, [2]]

    def test_an_error_reaches_errback_and_the_chain_after_the_body(self, tasks: Tasks) -> None:
        header = [tasks.add.s(1, 1), tasks.fail.s("so it is")]
        after = chord(header, chain(tasks.total.s(), tasks.add.s(1)))()
        heard_of = chord(header, tasks.total.s().on_error(tasks.hear.s()))()
        for result in (after, heard_of):
            with pytest.raises(ChordError, match="so it is"):
                result.get(timeout=LIMIT, follow_parents=False)
        wait_for("the errback", lambda: heard_of.id in heard)

    def test_a_group_of_many_is_joined(self, tasks: Tasks) -> None:
        done = group(tasks.add.s(n, n) for n in range(300))()
        assert done.get(timeout=LIMIT) == [2 * n for n in range(300)]
        assert done.completed_count() == 300

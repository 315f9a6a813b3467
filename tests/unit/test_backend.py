"""The result backend as Celery calls it, on a directory and on an S3 server: what is stored is what comes back."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest
from backend_bench import LIMIT, application, request
from celery import Celery, states
from celery.exceptions import TimeoutError
from celery.result import AsyncResult, GroupResult

from studio_celery.backend.keys import component
from studio_celery.errors import ExperimentFailed, StoreError

SERIALIZERS = ["json", "pickle"]


class Odd(Exception):
    """An exception of the application's own."""


@pytest.fixture
def app(store_url: str) -> Celery:
    return application(store_url)


def fail(app: Celery, task_id: str, error: Exception, traceback: str | None = None) -> None:
    app.backend.mark_as_failure(task_id, error, traceback, request=request(task_id))


class TestStates:
    def test_nobody_knows_a_task_that_was_never_sent(self, app: Celery) -> None:
        result = app.AsyncResult("nobody")
        assert (result.state, result.result, result.ready(), result.exists()) == ("PENDING", None, False, False)

    @pytest.mark.parametrize("serializer", SERIALIZERS)
    @pytest.mark.parametrize("value", [None, 0, "grüße 🎉", [1, {"a": [None, True]}], "x" * 5_000_000])
    def test_a_value_comes_back(self, store_url: str, serializer: str, value: Any) -> None:
        app = application(store_url, result_serializer=serializer, accept_content=["json", "pickle"])
        app.backend.mark_as_done("a", value, request("a"))
        result = application(store_url, result_serializer=serializer, accept_content=["pickle", "json"]).AsyncResult(
            "a"
        )
        assert result.get(timeout=0) == value
        assert (result.state, result.successful(), result.exists()) == ("SUCCESS", True, True)
        assert result.date_done is not None

    @pytest.mark.parametrize("serializer", SERIALIZERS)
    @pytest.mark.parametrize("error", [ValueError("so", 1), Odd("it is"), ExperimentFailed("i", "oom", 137, {"a": 1})])
    def test_an_error_comes_back_with_its_type_and_arguments(
        self, store_url: str, serializer: str, error: Exception
    ) -> None:
        app = application(store_url, result_serializer=serializer, accept_content=["json", "pickle"])
        fail(app, "a", error, "Traceback: here")
        result = app.AsyncResult("a")
        with pytest.raises(type(error)) as caught:
            result.get(timeout=0)
        assert caught.value.args == error.args
        assert (result.state, result.failed(), result.traceback) == ("FAILURE", True, "Traceback: here")
        assert type(app.AsyncResult("a").get(propagate=False)) is type(error)

    @pytest.mark.parametrize("compression", ["gzip", "bzip2"])
    def test_a_compressed_result_is_small_and_comes_back(self, store_url: str, compression: str) -> None:
        app = application(store_url, result_compression=compression)
        app.backend.mark_as_done("a", "x" * 100_000, request("a"))
        assert application(store_url).AsyncResult("a").get(timeout=0) == "x" * 100_000
        assert app.backend.store.objects.head(app.backend.result_path("a")).size < 2000

    def test_a_state_of_its_own_is_seen_with_what_it_says(self, app: Celery) -> None:
        app.backend.store_result("a", {"done": 3}, "PROGRESS")
        assert (app.AsyncResult("a").state, app.AsyncResult("a").info) == ("PROGRESS", {"done": 3})
        app.backend.mark_as_started("a", pid=1)
        assert (app.AsyncResult("a").state, app.AsyncResult("a").info) == ("STARTED", {"pid": 1})

    def test_a_retry_tells_why(self, app: Celery) -> None:
        app.backend.mark_as_retry("a", KeyError("later"), "Traceback", request("a"))
        result = app.AsyncResult("a")
        assert (result.state, result.ready()) == ("RETRY", False)
        assert isinstance(result.result, KeyError)

    def test_nothing_follows_a_success(self, app: Celery) -> None:
        app.backend.mark_as_done("a", 1, request("a"))
        fail(app, "a", ValueError())
        assert app.AsyncResult("a").get(timeout=0) == 1

    def test_a_revoked_task_says_so(self, app: Celery) -> None:
        app.backend.mark_as_revoked("a", "expired", request("a"))
        assert app.AsyncResult("a").state == states.REVOKED

    def test_an_ignored_result_is_not_kept(self, app: Celery) -> None:
        app.backend.mark_as_done("a", 1, request("a", ignore_result=True))
        assert not app.AsyncResult("a").exists()

    def test_extended_results_tell_the_call(self, store_url: str) -> None:
        app = application(store_url, result_extended=True)
        call = request("a", args=[1], kwargs={"b": 2}, hostname="w@h", retries=2, task="plain.add")
        app.backend.mark_as_done("a", 1, call)
        result = app.AsyncResult("a")
        told = (result.name, result.args, result.kwargs, result.worker, result.retries)
        assert told == ("plain.add", [1], {"b": 2}, "w@h", 2)

    def test_children_and_parent_are_known_to_others(self, app: Celery) -> None:
        child = app.AsyncResult("child", parent=app.AsyncResult("a"))
        app.backend.mark_as_done("a", 1, request("a", children=[child], parent_id="p", group="g"))
        found = app.AsyncResult("a").children
        assert [each.id for each in found] == ["child"]
        assert found[0].parent.id == "a"
        assert app.backend.get_task_meta("a")["parent_id"] == "p"

    def test_a_forgotten_result_is_gone(self, app: Celery) -> None:
        app.backend.mark_as_done("a", 1, request("a"))
        result = app.AsyncResult("a")
        result.get(timeout=0)
        result.forget()
        assert (result.state, app.AsyncResult("a").exists()) == ("PENDING", False)


class TestIds:
    @pytest.mark.parametrize("task_id", ["../../out", "..", ".", "a/b", "a b", "ü🎉", "50%#1", "x" * 3000, "\n", "~"])
    def test_an_id_is_only_text(self, app: Celery, task_id: str) -> None:
        app.backend.mark_as_done(task_id, task_id, request(task_id))
        assert app.AsyncResult(task_id).get(timeout=0) == task_id
        keys = [item.key for item in app.backend.store.objects.listing("celery")]
        assert keys == [f"celery/results/{component(task_id)}"]
        app.AsyncResult(task_id).forget()
        assert app.backend.store.objects.listing("celery") == []

    def test_different_ids_are_different_results(self) -> None:
        ids = ["a/b", "a%2Fb", "a", "A", "x" * 3000, "x" * 3001, ".", "%2E", "..", ""]
        assert len({component(each) for each in ids}) == len(ids)

    def test_a_prefix_keeps_applications_apart(self, store_url: str) -> None:
        one = application(store_url, result_backend_transport_options={"global_keyprefix": "one"})
        one.backend.mark_as_done("a", 1, request("a"))
        assert one.AsyncResult("a").get(timeout=0) == 1
        assert not application(store_url).AsyncResult("a").exists()


class TestWaiting:
    def test_a_wait_ends_at_its_limit(self, app: Celery) -> None:
        for timeout in (0, 0.2):
            with pytest.raises(TimeoutError):
                app.AsyncResult("a").get(timeout=timeout)

    def test_a_wait_sees_what_another_thread_stores(self, app: Celery) -> None:
        storing = threading.Thread(target=lambda: app.backend.mark_as_done("a", 1, request("a")))

        def store_soon() -> None:
            if storing.ident is None:
                storing.start()

        assert app.AsyncResult("a").get(timeout=LIMIT, on_interval=store_soon) == 1
        storing.join()

    def test_pauses_grow_up_to_the_setting(self, store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        options = {"poll_floor_seconds": 0.5, "poll_ceiling_seconds": 2}
        app, now, naps = application(store_url, result_backend_transport_options=options), [0.0], []

        def sleep(seconds: float) -> None:
            naps.append(seconds)
            now[0] += seconds

        monkeypatch.setattr("studio_celery.backend.pace.time.sleep", sleep)
        monkeypatch.setattr("studio_celery.backend.pace.time.monotonic", lambda: now[0])
        with pytest.raises(TimeoutError):
            app.AsyncResult("a").get(timeout=60)
        assert naps[0] == 0.5
        assert max(naps) == 2
        assert naps[:-1] == sorted(naps[:-1])
        assert sum(naps) == pytest.approx(60)

    def test_many_are_looked_at_together(self, app: Celery) -> None:
        ids = [f"t{number}" for number in range(100)]
        group = GroupResult("g", [app.AsyncResult(i) for i in ids], app=app)
        for number, task_id in enumerate(ids[:-1]):
            app.backend.store_result(task_id, number, states.SUCCESS)
        assert sorted(meta["result"] for meta in group._iter_meta()) == list(range(99))
        with pytest.raises(TimeoutError):
            group.get(timeout=0.3)
        app.backend.store_result(ids[-1], 99, states.SUCCESS)
        assert group.get(timeout=LIMIT) == list(range(100))
        assert {task_id for task_id, _ in group.iter_native(timeout=LIMIT)} == set(ids)

    def test_one_that_failed_is_told_without_waiting_for_the_rest(self, app: Celery) -> None:
        group = GroupResult("g", [app.AsyncResult("never"), app.AsyncResult("bad")], app=app)
        fail(app, "bad", ValueError("so it is"))
        with pytest.raises(ValueError, match="so it is"):
            group.get(timeout=LIMIT)


class TestGroups:
    def test_a_group_is_saved_restored_and_deleted(self, app: Celery) -> None:
        inner = app.GroupResult("inner", [app.AsyncResult("b"), app.AsyncResult("c")])
        group = app.GroupResult("outer", [app.AsyncResult("a", parent=app.AsyncResult("p")), inner])
        group.save()
        found = GroupResult.restore("outer", backend=app.backend)
        assert found == group
        assert found.results[0].parent.id == "p"
        group.delete()
        assert GroupResult.restore("outer", backend=app.backend) is None


def test_a_result_travels_to_another_process(app: Celery) -> None:
    app.set_current()
    app.backend.mark_as_done("a", 1, request("a"))
    copy: AsyncResult = pickle.loads(pickle.dumps(app.AsyncResult("a")))
    assert copy.get(timeout=0) == 1
    assert copy.backend.store.url == app.backend.store.url


def test_all_threads_share_one_backend(app: Celery) -> None:
    found: list[Any] = [app.backend]
    thread = threading.Thread(target=lambda: found.append(app.backend))
    thread.start()
    thread.join()
    assert found[0] is found[1]


def test_a_store_that_fails_is_asked_again_if_that_is_set(tmp_path: Any) -> None:
    (tmp_path / "store").mkdir()
    app = application(str(tmp_path / "store"), result_backend_always_retry=True)
    (tmp_path / "store" / "celery").write_text("in the way")
    timer = threading.Timer(0.3, (tmp_path / "store" / "celery").unlink)
    timer.start()
    app.backend.mark_as_done("a", 1, request("a"))
    timer.join()
    assert app.AsyncResult("a").get(timeout=0) == 1
    (tmp_path / "store" / "celery" / "groups").write_text("in the way")
    with pytest.raises(StoreError):
        application(str(tmp_path / "store")).GroupResult("g", []).save()

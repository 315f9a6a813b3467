"""What `studio gc` removes from a real store, and what never: directory and S3."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from studio import submit

from studio_celery import garbage
from studio_celery.errors import StoreError
from studio_celery.experiment import Experiment, new_id, utc_now
from studio_celery.garbage import Collected, Garbage, outlast
from studio_celery.journal import Kind
from studio_celery.store import Store

DAY = 86400


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def put(store: Store, content: bytes, age_seconds: float = 0.0) -> str:
    """A blob that was stored so long ago."""
    digest = hashlib.sha256(content).hexdigest()
    assert store.objects.root is not None
    store.objects.put(f"blobs/{digest}", content)
    age(store.objects.root / "blobs" / digest, age_seconds)
    return digest


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def refer(store: Store, digest: str) -> str:
    """An experiment with that workspace; its id."""
    experiment = Experiment(id=new_id(), queue="q", script="a.py", workspace=digest, submitted_at=utc_now())
    store.submit(experiment, "alice")
    return experiment.id


def end_and_remove(store: Store, experiment_id: str, removed_ago: float = 0.0) -> None:
    journal = store.journal(experiment_id)
    journal.refresh()
    assert journal.decide(Kind.FAILED, "alice", reason="test")
    assert journal.decide(Kind.REMOVED, "alice")
    assert store.objects.root is not None
    age(store.objects.root / "experiments" / experiment_id / "journal" / f"{journal.state.seq:06d}.json", removed_ago)


def collect(store: Store, *, dry_run: bool = False) -> Collected:
    return Garbage(store).collect(dry_run=dry_run)


def test_an_empty_store_has_nothing_to_collect(store_url: str) -> None:
    assert collect(Store(store_url)).blobs == 0


def test_only_old_blobs_that_nobody_refers_to_go(store: Store) -> None:
    needed, young = put(store, b"needed", 2 * DAY), put(store, b"young", DAY / 2)
    unneeded = put(store, b"unneeded", 2 * DAY)
    refer(store, needed)
    done = collect(store)
    assert (done.blobs, done.bytes, done.kept_blobs, done.kept_bytes) == (1, 8, 2, 11)
    assert (store.has_blob(needed), store.has_blob(young), store.has_blob(unneeded)) == (True, True, False)
    assert collect(store).blobs == 0
    assert store.objects.listing("gc") == []


def test_a_dry_run_says_the_same_and_removes_nothing(store: Store, tmp_path: Path) -> None:
    put(store, b"unneeded", 2 * DAY)
    end_and_remove(store, refer(store, put(store, b"removed", 2 * DAY)), 32 * DAY)
    assert store.objects.root is not None
    before = sorted(store.objects.root.rglob("*"))
    dry = collect(store, dry_run=True)
    assert [path for path in sorted(store.objects.root.rglob("*")) if path not in before] == [
        path for path in [store.objects.root / "check"] if path not in before
    ]
    done = collect(store)
    assert (dry.blobs, dry.bytes, dry.experiments) == (done.blobs, done.bytes, done.experiments) == (2, 15, 1)


def test_a_removed_experiment_needs_its_workspace_no_more_and_its_journal_stays_for_31_days(store: Store) -> None:
    digest = put(store, b"workspace", 2 * DAY)
    one = refer(store, digest)
    end_and_remove(store, one, 30 * DAY)
    assert (collect(store).blobs, store.journal(one).refresh().removed) == (1, True)
    assert store.objects.root is not None
    age(store.objects.root / "experiments" / one / "journal" / "000003.json", 32 * DAY)
    assert collect(store).experiments == 1
    assert store.objects.listing(f"experiments/{one}") == []


def test_what_an_interrupted_removal_left_goes(store: Store) -> None:
    one = refer(store, put(store, b"workspace"))
    store.heartbeat(one, 1, {"phase": "running"})
    end_and_remove(store, one)
    assert list(store.recent()) == [one]
    collect(store)
    assert list(store.recent()) == []
    assert store.objects.listing(f"experiments/{one}/attempts") == []


def test_a_journal_that_another_collector_removes_while_it_is_read_is_no_error(store: Store) -> None:
    one = refer(store, put(store, b"workspace"))
    end_and_remove(store, one, 32 * DAY)
    key = f"experiments/{one}/journal/000002.json"
    slow = Pausing(store.url, "get", key, lambda: collect(Store(store.url)) and None)
    assert collect(slow).experiments == 0
    assert store.objects.listing(f"experiments/{one}") == []


def test_a_journal_of_which_an_interrupted_collection_left_the_end_goes(store: Store) -> None:
    one = refer(store, put(store, b"workspace"))
    end_and_remove(store, one, 32 * DAY)
    store.objects.delete(f"experiments/{one}/journal/000001.json")
    assert collect(store).experiments == 1
    assert store.objects.listing(f"experiments/{one}") == []


def test_a_journal_that_cannot_be_read_stops_everything(store: Store) -> None:
    unneeded = put(store, b"unneeded", 2 * DAY)
    store.objects.put(f"experiments/{new_id()}/journal/000001.json", b"{tor")
    with pytest.raises(StoreError, match="not readable"):
        collect(store)
    assert store.has_blob(unneeded)


def test_a_journal_of_a_newer_version_still_refers(store: Store) -> None:
    needed = put(store, b"needed", 2 * DAY)
    body = f'{{"schema": 9, "kind": "forked", "by": "x", "at": "y", "future": "sha256:{needed}"}}'
    store.objects.put(f"experiments/{new_id()}/journal/000001.json", body.encode())
    assert collect(store).blobs == 0


def test_a_submission_renews_an_old_blob_that_it_finds(store: Store, tmp_path: Path) -> None:
    digest = put(store, b"workspace", 2 * DAY)
    (tmp_path / "archive").write_bytes(b"workspace")
    assert store.put_blob(digest, tmp_path / "archive")
    assert not store.put_blob(digest, tmp_path / "archive")
    assert collect(store).blobs == 0


class Pausing(Store):
    """A store that lets somebody else act at one moment: right before `method` of its objects is called."""

    def __init__(self, url: str, method: str, key: str, act: Callable[[], None]) -> None:
        super().__init__(url)
        original, acts = getattr(self.objects, method), [act]

        def pausing(*args: object) -> object:
            if str(args[0]).startswith(key) and acts:
                acts.pop()()
            return original(*args)

        setattr(self.objects, method, pausing)


def test_an_experiment_that_is_recorded_while_it_is_collected_keeps_its_workspace(store: Store) -> None:
    digest = put(store, b"workspace", 2 * DAY)
    slow = Pausing(store.url, "put", "gc/", lambda: refer(store, digest) and None)
    assert collect(slow).blobs == 0
    assert store.has_blob(digest)


def test_an_experiment_that_had_its_directory_before_its_journal_keeps_its_workspace(store: Store) -> None:
    """The directory is made first; the first entry is synced, and then given its name."""
    digest = put(store, b"workspace", 2 * DAY)
    experiment = Experiment(id=new_id(), queue="q", script="a.py", workspace=digest, submitted_at=utc_now())
    (Path(store.url) / "experiments" / experiment.id / "journal").mkdir(parents=True)
    slow = Pausing(store.url, "put", "gc/", lambda: store.submit(experiment, "alice") and None)
    assert collect(slow).blobs == 0
    assert store.has_blob(digest)


def test_a_submission_waits_for_a_collector_and_stores_again_what_it_removed(store: Store, tmp_path: Path) -> None:
    digest = put(store, b"workspace", 2 * DAY)
    (tmp_path / "archive").write_bytes(b"workspace")
    thread = threading.Thread(target=outlast, args=(Store(store.url), digest, tmp_path / "archive"))

    def submission() -> None:
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()

    # The submitter recorded its experiment after the collector had looked, but the collector had announced itself.
    slow = Pausing(store.url, "delete_all", "", submission)
    slow.objects.delete_all = _only_blobs(slow, submission)  # type: ignore[method-assign]
    assert collect(slow).blobs == 1
    thread.join(60)
    assert store.has_blob(digest)


def _only_blobs(store: Store, act: Callable[[], None]) -> Callable[[object], None]:
    original = type(store.objects).delete_all

    def acting(keys: object) -> None:
        chosen = list(keys)  # type: ignore[call-overload]
        if chosen and chosen[0].startswith("blobs/"):
            act()
        original(store.objects, chosen)

    return acting


def test_a_collector_that_was_killed_does_not_hold_up_submissions_for_ever(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(store, b"workspace")
    store.objects.put("gc/killed.json", f'["{digest}"]'.encode())
    monkeypatch.setattr(garbage, "PATIENCE_SECONDS", 0.3)
    with pytest.raises(StoreError, match="studio gc"):
        outlast(store, digest, tmp_path / "archive")
    assert store.objects.root is not None
    age(store.objects.root / "gc" / "killed.json", 3700)
    outlast(store, digest, tmp_path / "archive")
    assert store.objects.listing("gc") == []


def test_two_collectors_and_many_submitters_never_lose_a_workspace(store: Store, tmp_path: Path) -> None:
    contents = [f"workspace {n}".encode() for n in range(6)]
    for content in contents:
        put(store, content, 2 * DAY)
        (tmp_path / hashlib.sha256(content).hexdigest()).write_bytes(content)
    over = threading.Event()

    def keep_collecting() -> None:
        mine = Store(store.url)
        while not over.is_set():
            for content in contents:
                path = Path(store.url) / "blobs" / hashlib.sha256(content).hexdigest()
                with suppress(FileNotFoundError):  # the other one has collected it
                    age(path, 2 * DAY)  # as if every look came days after the one before
            collect(mine)

    collectors = [threading.Thread(target=keep_collecting) for _ in range(2)]
    for collector in collectors:
        collector.start()
    submitter = Store(store.url)
    try:
        for content in contents:
            digest = hashlib.sha256(content).hexdigest()
            submitter.put_blob(digest, tmp_path / digest)
            refer(submitter, digest)
            outlast(submitter, digest, tmp_path / digest)
            assert submitter.has_blob(digest)
    finally:
        over.set()
        for collector in collectors:
            collector.join()
    assert all(store.has_blob(hashlib.sha256(content).hexdigest()) for content in contents)


def test_temporary_files_of_killed_writers_go(store: Store, tmp_path: Path) -> None:
    one = submit(store, tmp_path, "print(1)")
    folder = Path(store.url) / "experiments" / one / "journal"
    for name, seconds in (("000009.json#123", 2 * DAY), ("000010.json#456", 10)):
        (folder / name).write_bytes(b"{}")
        age(folder / name, seconds)
    assert collect(store).temporary_files == 1
    assert sorted(path.name for path in folder.iterdir()) == ["000001.json", "000002.json", "000010.json#456"]


def test_temporary_files_are_found_while_another_collector_prunes(store: Store) -> None:
    def come_and_go() -> None:
        while not over.is_set():
            folders = [Path(store.url) / "experiments" / f"e{number}" for number in range(50)]
            for folder in folders:
                (folder / "journal").mkdir(parents=True)
            for folder in folders:
                (folder / "journal").rmdir()
                folder.rmdir()

    over = threading.Event()
    left = Path(store.url) / "experiments" / "this" / "000001.json#1"
    left.parent.mkdir(parents=True)
    left.touch()
    age(left, 2 * DAY)
    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        assert all(list(garbage._temporary_files(Path(store.url), DAY)) == [left] for _ in range(200))
    finally:
        over.set()
        thread.join()


def test_directories_that_were_emptied_long_ago_go(store: Store) -> None:
    one = refer(store, put(store, b"workspace"))
    end_and_remove(store, one, 32 * DAY)
    collect(store)
    folder = Path(store.url) / "experiments" / one
    for path in [*folder.rglob("*"), folder]:
        if path.exists():
            age(path, 2 * DAY)
    collect(store)
    assert not (folder / "journal").exists()

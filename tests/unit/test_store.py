"""The store on a real directory: create-once, journals under races, logs from any byte."""

from __future__ import annotations

import dataclasses
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio_celery.errors import StoreError
from studio_celery.experiment import Attempt, Experiment, Status, new_id, utc_now
from studio_celery.journal import Kind, NotAllowed
from studio_celery.store import Item, Store
from studio_celery.store.logs import LAST_CHUNK, chunk_limit


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def experiment() -> Experiment:
    return Experiment(id=new_id(), queue="q", script="a.py", workspace="0" * 64, submitted_at=utc_now())


def attempt(*epochs: tuple[int, int]) -> Attempt:
    return Attempt(number=1, epoch=epochs[-1][0], claimed_seq=1, worker="w", host="h", log_epochs=epochs)


def test_create_writes_only_once(store: Store) -> None:
    assert store.objects.create("a/b.json", b"first")
    assert not store.objects.create("a/b.json", b"second")
    assert store.objects.get("a/b.json") == b"first"


def test_create_leaves_no_temporary_files(store: Store, tmp_path: Path) -> None:
    store.objects.create("a/b.json", b"first")
    store.objects.create("a/b.json", b"second")
    assert [path.name for path in (tmp_path / "store" / "a").iterdir()] == ["b.json"]


def test_of_many_that_create_one_wins(store: Store) -> None:
    results: list[bool] = []
    barrier = threading.Barrier(8)

    def create(number: int) -> None:
        barrier.wait()
        results.append(store.objects.create("race", str(number).encode()))

    threads = [threading.Thread(target=create, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 7 + [True]


def test_who_comes_second_reads_on_and_decides_again(store: Store) -> None:
    first = store.submit(experiment(), "alice")
    second = store.journal(first.experiment_id)
    second.refresh()
    assert first.append(Kind.QUEUED, "alice") is not None
    assert second.append(Kind.STOP_REQUESTED, "bob") is None
    assert second.state.status is Status.WAITING
    assert second.append(Kind.STOP_REQUESTED, "bob") is not None
    assert first.refresh().stop_requested_by == "bob"


def test_what_is_not_allowed_is_not_written(store: Store) -> None:
    journal = store.submit(experiment(), "alice")
    with pytest.raises(NotAllowed):
        journal.append(Kind.CLAIMED, "w", attempt=1, host="h")
    assert journal.refresh().seq == 1


def test_a_create_whose_answer_was_lost_is_recognised(store: Store) -> None:
    journal = store.submit(experiment(), "alice")
    write = store.objects.create

    def lose_the_answer(key: str, data: bytes) -> bool:
        write(key, data)
        return write(key, data)

    store.objects.create = lose_the_answer  # type: ignore[method-assign]
    assert journal.append(Kind.QUEUED, "alice") is not None
    assert journal.state.seq == 2


def test_submitting_the_same_experiment_again_changes_nothing(store: Store) -> None:
    one = experiment()
    store.submit(one, "alice")
    again = store.submit(one, "alice")
    assert again.refresh().seq == 1
    assert list(store.recent()) == [one.id]


def test_the_same_id_of_another_hour_has_one_marker(store: Store) -> None:
    """As when a canvas submits twice: `recent` names it once, and `clear` leaves nothing of it."""
    first = dataclasses.replace(experiment(), submitted_at="2026-01-01T01:59:00.000Z")
    store.submit(first, "alice")
    (marker,) = store.markers()
    again = store.submit(dataclasses.replace(first, submitted_at="2026-01-01T02:01:00.000Z"), "alice")
    assert again.state.experiment == first
    assert list(store.markers()) == [marker]
    store.clear(first)
    assert list(store.recent()) == []


def test_what_was_removed_gets_no_marker_by_another_submission(store: Store) -> None:
    one = experiment()
    store.submit(one, "alice").decide(Kind.STOPPED, "alice")
    assert store.submit(one, "alice").decide(Kind.REMOVED, "alice")
    store.clear(one)
    store.submit(one, "alice")
    assert list(store.recent()) == []


def test_a_worker_that_leaves_while_all_are_read_is_left_out(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("one", "gone", "broken"):
        store.write_worker(name, {"queues": ["q"]})
    (Path(store.url) / "workers" / "broken.json").write_bytes(b"")
    listing = store.objects.listing

    def leaving(prefix: str) -> list[Item]:
        items = listing(prefix)
        store.forget_worker("gone")
        return items

    monkeypatch.setattr(store.objects, "listing", leaving)
    assert [worker["id"] for worker in store.workers()] == ["one"]
    assert "broken" in caplog.text
    assert "gone" not in caplog.text


def test_what_is_put_durably_is_synced_before_it_has_its_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[list[str]] = []
    folder = Path(store.url) / "experiments" / "e"
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        synced.append(sorted(path.name.partition("#")[0] + "#" * ("#" in path.name) for path in folder.iterdir()))
        fsync(descriptor)

    for body in (b"one", b"two"):
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", noting)
            store.put_message("e", body)
        assert store.message("e") == body
    assert synced == [["message.json#"], ["message.json"], ["message.json", "message.json#"], ["message.json"]]


def test_a_damaged_entry_is_reported_by_its_key(store: Store) -> None:
    journal = store.submit(experiment(), "alice")
    store.objects.put(f"experiments/{journal.experiment_id}/journal/000002.json", b"")
    with pytest.raises(StoreError, match=r"000002\.json"):
        journal.refresh()


def test_recent_experiments_come_latest_first(store: Store) -> None:
    ids = [store.submit(experiment(), "alice").experiment_id for _ in range(5)]
    assert list(store.recent()) == ids[::-1]


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        Store(str(tmp_path / "file" / "store"))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 60_000), min_size=1, max_size=12))
def test_a_log_reads_back_from_any_byte(tmp_path_factory: pytest.TempPathFactory, pieces: list[int]) -> None:
    folder = tmp_path_factory.mktemp("log")
    store, source = Store(str(folder / "store")), folder / "log"
    writer = store.log_writer("e", 1, 3, 0)
    for size in pieces:
        with source.open("ab") as file:
            file.write(os.urandom(size))
        writer.copy(source)
    reader, whole = store.log_reader("e", attempt((3, 0))), source.read_bytes()
    assert reader.stored(attempt((3, 0))) == writer.offset == len(whole)
    for offset in (0, 1, len(whole) // 2, len(whole) - 1):
        read = b""
        while piece := reader.read(attempt((3, 0)), offset + len(read)):
            read += piece
        assert read == whole[offset:]


def test_a_new_owner_goes_on_and_what_the_former_wrote_beyond_is_not_shown(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "log"
    source.write_bytes(b"a" * 50_000)
    former = store.log_writer("e", 1, 3, 0)
    former.copy(source)
    adopted_at = store.log_reader("e", attempt((3, 0))).stored(attempt((3, 0)))
    source.write_bytes(b"a" * 50_000 + b"b" * 50_000)
    store.log_writer("e", 1, 7, adopted_at).copy(source)
    stale = tmp_path / "stale"
    stale.write_bytes(b"a" * 50_000 + b"x" * 90_000)
    former.copy(stale)
    now, read = attempt((3, 0), (7, adopted_at)), b""
    while piece := store.log_reader("e", now).read(now, len(read)):
        read += piece
    assert read == source.read_bytes()


def test_a_log_needs_few_objects() -> None:
    size, chunks = 0, 0
    while size < 2**30:
        size += chunk_limit(chunks)
        chunks += 1
    assert chunks <= 64 + 2**30 // LAST_CHUNK


def test_a_log_that_was_replaced_by_a_link_is_not_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"the worker's own")
    (tmp_path / "log").symlink_to(tmp_path / "secret")
    assert store.log_writer("e", 1, 3, 0).copy(tmp_path / "log") == 0


def test_blobs_are_stored_once(store: Store, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"content")
    assert store.put_blob("d" * 64, tmp_path / "blob")
    assert not store.put_blob("d" * 64, tmp_path / "blob")
    store.get_blob("d" * 64, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"content"
    with pytest.raises(KeyError):
        store.get_blob("e" * 64, tmp_path / "none")


@pytest.mark.parametrize("name", ["plain.bin", "a b/ü.txt", "100%.txt", "deep/er/est"])
def test_artifacts_keep_their_names(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"content")
    store.put_artifact("e", 1, "tag", name, tmp_path / "file")
    assert [item.key for item in store.artifact_files("e", 1)] == [f"tag/{name}"]
    assert b"".join(store.artifact_stream("e", 1, f"tag/{name}")) == b"content"

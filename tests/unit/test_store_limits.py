"""What a store can never hold costs an attempt nothing else; what is large is sent in few parts."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from faulty_store import Fault, Faults, faulty_store
from hypothesis import given
from hypothesis import strategies as st

from studio_celery.errors import StoreRefusal
from studio_celery.experiment import Attempt, new_id
from studio_celery.store import Store
from studio_celery.store.limits import LEAST_PART, TOGETHER_BYTES, parts_of
from studio_celery.supervisor.keepsakes import Kept, collect, keep
from studio_celery.supervisor.ledger import Detached, Ledger

LATIN, PERCENT = "n" * 255, "%" * 85


def ledger_of(store: Store, experiment_id: str) -> Ledger:
    """Of a worker that is detached once it has paused twenty times."""
    attempt = Attempt(number=1, epoch=3, claimed_seq=3, worker="w", host="h", log_epochs=((3, 0),))
    tries: list[int] = []

    class Patience(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            tries.append(1)
            return len(tries) > 20

    return Ledger(store.journal(experiment_id), attempt, worker_id="w", detaching=Patience(), interval_seconds=0.01)


def kept_of(store: Store, folder: Path) -> Kept:
    """Keep what lies in `folder`."""
    one = new_id()
    found = collect(folder, folder.parent, ())
    return keep(store, one, 1, found, until_stored=ledger_of(store, one).until_stored)


@pytest.mark.parametrize("name", ["n" * 254, LATIN, PERCENT, "\n" * 85, "a" * 252 + "%"])
def test_a_name_that_no_directory_can_hold_is_left_out_and_the_others_are_kept(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "artifacts"
    folder.mkdir()
    for path in (folder / "a", folder / name, folder / "z"):
        path.write_bytes(b"kept")
    kept = kept_of(Store(str(tmp_path / "store")), folder)
    assert kept.left_out == [f"output/{name}"]
    assert kept.summary == [{"tag": "output", "files": 2, "bytes": 8}]


def test_the_longest_name_that_a_directory_holds_is_kept(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    store.objects.put("a/" + "n" * 251, b"kept")
    assert store.objects.get("a/" + "n" * 251) == b"kept"
    with pytest.raises(StoreRefusal, match="no name of more than 255 bytes"):
        store.objects.put("a/" + "n" * 252, b"lost")


def test_a_folder_or_a_path_that_no_directory_can_hold_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    with pytest.raises(StoreRefusal, match="no name of"):
        store.objects.put(f"{PERCENT * 4}/a", b"lost")
    with pytest.raises(StoreRefusal, match="no path of"):
        store.objects.put("/".join(["n" * 200] * 21), b"lost")


def test_a_key_that_no_bucket_can_hold_is_left_out_and_the_others_are_kept(tmp_path: Path, s3_store_url: str) -> None:
    """Moto takes keys that S3 does not, so that nothing but our own look keeps this one out."""
    folder, deep = tmp_path / "artifacts", tmp_path / "artifacts" / "/".join(["n" * 200] * 5)
    deep.mkdir(parents=True)
    for path in (folder / "a", deep / "b", folder / "z"):
        path.write_bytes(b"kept")
    kept = kept_of(Store(s3_store_url), folder)
    assert [len(name) for name in kept.left_out] == [5 * 201 + 1]
    assert [(one["tag"], one["files"]) for one in kept.summary] == [("output", 2)]


def test_the_longest_key_of_a_bucket_counts_its_prefix(s3_store_url: str) -> None:
    store, room = Store(s3_store_url), 1024 - len("prefix/")
    store.objects.put("k" * room, b"kept")
    assert store.objects.get("k" * room) == b"kept"
    with pytest.raises(StoreRefusal, match="no key of more than 1024 bytes"):
        store.objects.put("k" * (room + 1), b"lost")


def test_what_passes_is_still_tried_again(tmp_path: Path) -> None:
    faults = Faults()
    store = faulty_store(str(tmp_path / "store"), faults)
    folder = tmp_path / "artifacts"
    folder.mkdir()
    (folder / "a").write_bytes(b"kept")
    faults.add(Fault("error", method="put", key="*/artifacts/*", times=3))
    assert kept_of(store, folder).left_out == []
    faults.cut()
    with pytest.raises(Detached):
        kept_of(store, folder)


def test_what_never_passes_is_not_tried_again(tmp_path: Path) -> None:
    tries: list[int] = []

    def refused() -> None:
        tries.append(1)
        raise StoreRefusal("The store never takes this: shorten its name.")

    with pytest.raises(StoreRefusal):
        ledger_of(Store(str(tmp_path / "store")), new_id()).until_stored(refused)
    assert len(tries) == 1


@given(st.integers(0, 5 * 2**40))
def test_the_largest_object_of_a_bucket_is_sent_in_few_parts(size: int) -> None:
    part, together = parts_of(size)
    assert -(-size // part) <= 10_000
    assert LEAST_PART <= part <= 5 * 2**30
    assert together >= 1
    assert together == 1 or together * part <= TOGETHER_BYTES

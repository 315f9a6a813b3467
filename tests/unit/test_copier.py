"""Copying an attempt's output, and freeing it on the host: soon, whole, and never what somebody else still needs."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faulty_store import Fault, Faults, faulty_store
from studio import wait_for

from studio_celery.client import LOG_BYTES
from studio_celery.errors import StoreError
from studio_celery.experiment import Experiment, new_id, utc_now
from studio_celery.follower import LOOK_SECONDS, Follower
from studio_celery.journal import Kind
from studio_celery.settings import Settings
from studio_celery.store import Journal, Store
from studio_celery.supervisor import holes
from studio_celery.supervisor.copier import TRIES_AT_END, Copier
from studio_celery.supervisor.spool import Spool, nothing_freed

MIB = 2**20
NO_SPACE = "No space left on device"


def claimed(store: Store) -> Journal:
    """The journal of an experiment with one attempt."""
    one = Experiment(id=new_id(), queue="q", script="a.py", workspace="0" * 64, submitted_at=utc_now())
    journal = store.submit(one, "alice")
    journal.decide(Kind.QUEUED, "alice")
    journal.decide(Kind.CLAIMED, "w", attempt=1, host="h")
    return journal


def spool_of(store: Store, journal: Journal, directory: Path) -> Spool:
    live = journal.state.live
    assert live is not None
    return Spool(directory, store.journal(journal.experiment_id), live, least_bytes=1)


@contextmanager
def copying(store: Store, journal: Journal, directory: Path, look_seconds: float = 0.01) -> Iterator[Copier]:
    live = journal.state.live
    assert live is not None
    writer = store.log_writer(journal.experiment_id, 1, *live.log_epochs[-1])
    log, spool = directory / "io" / "log", spool_of(store, journal, directory)
    with Copier(writer, log, spool, name="e", look_seconds=look_seconds, retry_seconds=0.05) as copier:
        yield copier


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An attempt's directory with an empty log."""
    path = tmp_path / "run" / "e" / "1"
    (path / "io").mkdir(parents=True)
    (path / "io" / "log").touch()
    return path


def stored(store: Store, journal: Journal) -> bytes:
    attempt, data = journal.refresh().attempts[0], b""
    while piece := store.log_reader(journal.experiment_id, attempt).read(attempt, len(data), LOG_BYTES):
        data += piece
    return data


def allotted(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_what_is_printed_is_readable_soon(store_url: str, directory: Path) -> None:
    """The looks of both ends together take less than a second; a busy machine is not always slow."""
    store = Store(store_url)
    journal, looks = claimed(store), Settings().log_seconds
    assert looks + LOOK_SECONDS <= 0.8
    looked = store.journal(journal.experiment_id)
    follower = Follower(store, looked, lambda text: None, lambda j: j.refresh(), settle_seconds=10)
    pieces = follower.pieces()
    took = []
    with copying(store, journal, directory, looks), (directory / "io" / "log").open("ab", buffering=0) as log:
        for number in range(4):
            began = time.monotonic()
            log.write(b"line %d\n" % number)
            assert wait_within(lambda: next(pieces), 60) == b"line %d\n" % number
            took.append(time.monotonic() - began)
    assert min(took[1:]) < 10 * (looks + LOOK_SECONDS)  # the first is there for its first look


def wait_within(ask, seconds: float) -> object:  # type: ignore[no-untyped-def]
    """What a call that blocks returns, if it does so in time."""
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert answers, f"nothing came within {seconds} s"
    return answers[0]


def test_following_costs_few_requests(tmp_path: Path, directory: Path) -> None:
    """At each look one for the journal and one for the output; and another one for what it has."""
    faults = Faults()
    store = faulty_store(str(tmp_path / "store"), faults)
    journal = claimed(store)
    (directory / "io" / "log").write_bytes(b"x" * 1000)
    with copying(store, journal, directory) as copier:
        wait_for("the copy", copier.finish().is_set)
    follower = Follower(store, journal, lambda text: None, lambda j: j.refresh(), settle_seconds=10)
    faults.add(Fault("slow"))  # of no seconds: it only notes
    assert follower._read()[1] == b"x" * 1000
    follower._offset = 1000
    assert follower._read()[1] == b""
    assert [hit.split()[1] for hit in faults.hits()] == ["get_dated", "head", "get_range", "get_dated", "head"]


def test_a_store_that_is_away_is_tried_until_it_has_everything(tmp_path: Path, directory: Path) -> None:
    faults = Faults()
    store = faulty_store(str(tmp_path / "store"), faults)
    journal = claimed(store)
    faults.cut()
    (directory / "io" / "log").write_bytes(b"x" * MIB)
    with copying(store, journal, directory) as copier:
        done = copier.finish()
        wait_for("tries", lambda: sum("/log/" in hit for hit in faults.hits()) > 3)
        assert not done.is_set()
        faults.heal()
        wait_for("the end", done.is_set)
        copier.check()
    assert stored(store, journal) == b"x" * MIB


def test_who_leaves_does_not_wait_for_a_store_that_never_answers(tmp_path: Path, directory: Path) -> None:
    store = Store(str(tmp_path / "store"))
    journal, silent, asked = claimed(store), threading.Event(), threading.Event()

    def swallow(key: str, data: object) -> None:
        asked.set()
        silent.wait(60)

    store.objects.put = swallow  # type: ignore[method-assign]
    (directory / "io" / "log").write_bytes(b"x")
    try:
        with copying(store, journal, directory):
            assert asked.wait(30)
        assert not silent.is_set()
    finally:
        silent.set()


def test_a_log_that_cannot_be_read_is_waited_for_and_then_told(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file descriptor is free for a while, say: no reason to end a script that runs."""
    store = Store(str(tmp_path / "store"))
    journal, tries = claimed(store), []
    (directory / "io" / "log").write_bytes(b"x")

    def refuse(*_: object) -> int:
        tries.append(1)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("studio_celery.store.logs._open", refuse)
    with copying(store, journal, directory) as copier:
        wait_for("tries", lambda: len(tries) > TRIES_AT_END)
        copier.check()
        wait_for("the end", copier.finish().is_set)
        with pytest.raises(OSError, match="Too many"):
            copier.check()


def test_a_defect_is_told_to_whoever_looks_after_the_attempt(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "store"))
    journal = claimed(store)

    def broken(*_: object) -> int:
        raise ValueError("a defect of ours")

    monkeypatch.setattr("studio_celery.store.logs._open", broken)
    with copying(store, journal, directory) as copier:
        wait_for("the end", copier._done.is_set)
        with pytest.raises(ValueError, match="a defect of ours"):
            copier.check()


def test_what_is_stored_is_freed_and_keeps_its_place(tmp_path: Path, directory: Path) -> None:
    store = Store(str(tmp_path / "store"))
    journal, log, output = claimed(store), directory / "io" / "log", os.urandom(40 * MIB)
    log.write_bytes(output)
    with copying(store, journal, directory) as copier:
        wait_for("its room", lambda: allotted(log) <= 17 * MIB)
        wait_for("the copy", copier.finish().is_set)
        copier.check()
    assert log.stat().st_size == len(output)
    assert stored(store, journal) == output


@pytest.mark.parametrize("call", ["punch", "open"])
def test_a_disk_that_frees_nothing_is_told_once_and_costs_neither_output_nor_the_end(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    """It is full, say: then a file cannot be made, and the file system needs room for freeing."""
    store = Store(str(tmp_path / "store"))
    journal, log, refusals = claimed(store), directory / "io" / "log", []
    open_file = os.open

    def refuse(*_: object) -> None:
        refusals.append(1)
        raise OSError(errno.ENOSPC, NO_SPACE)

    def open_no_lock(path: object, *more: object, **named: object) -> object:
        return refuse() if str(path).endswith("spool.lock") else open_file(path, *more, **named)  # type: ignore

    if call == "punch":
        monkeypatch.setattr(holes, "punch", refuse)
    else:
        monkeypatch.setattr(os, "open", open_no_lock)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with copying(store, journal, directory) as copier:
        for number in range(1, 4):
            with log.open("ab") as file:
                file.write(b"x" * 20 * MIB)
            wait_for("a refusal", lambda number=number: len(refusals) >= number)  # type: ignore[misc]
        wait_for("the end", copier.finish().is_set)
        copier.check()
    assert stored(store, journal) == b"x" * 60 * MIB
    assert [record.message for record in caplog.records] == [f"{log} keeps what is stored already: {NO_SPACE}."]


def test_after_the_end_nothing_is_freed(tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path / "store"))
    journal, log = claimed(store), directory / "io" / "log"
    monkeypatch.setattr(Spool, "free", lambda *_: pytest.fail("it was freed"))
    log.write_bytes(b"x" * 4 * MIB)
    live = journal.state.live
    assert live is not None
    writer = store.log_writer(journal.experiment_id, 1, *live.log_epochs[-1])
    copier = Copier(writer, log, spool_of(store, journal, directory), name="e", look_seconds=9, retry_seconds=9)
    done = copier.finish()
    with copier:
        wait_for("the copy", done.is_set)
        copier.check()
    assert stored(store, journal) == b"x" * 4 * MIB


def test_a_former_owner_frees_nothing_that_its_successor_still_has_to_copy(tmp_path: Path, directory: Path) -> None:
    """It was cut off, knows nothing of the adoption, and has stored more than the successor goes on from."""
    store = Store(str(tmp_path / "store"))
    journal, log = claimed(store), directory / "io" / "log"
    former = spool_of(store, journal, directory)
    log.write_bytes(b"x" * 4 * MIB)
    assert journal.decide(Kind.ADOPTED, "other", attempt=1, host="h", log_offset=MIB)
    former.free(log, 3 * MIB)
    assert allotted(log) >= 4 * MIB
    spool_of(store, journal, directory).free(log, MIB)
    assert 3 * MIB <= allotted(log) < 4 * MIB


def test_a_short_log_is_not_freed_at_all(tmp_path: Path, directory: Path) -> None:
    store = Store(str(tmp_path / "store"))
    journal, log = claimed(store), directory / "io" / "log"
    live = journal.state.live
    assert live is not None
    log.write_bytes(b"x" * 4 * MIB)
    Spool(directory, store.journal(journal.experiment_id), live).free(log, 4 * MIB)
    assert allotted(log) >= 4 * MIB


def test_nothing_is_freed_while_somebody_finds_out_where_to_go_on(tmp_path: Path, directory: Path) -> None:
    store = Store(str(tmp_path / "store"))
    journal, log = claimed(store), directory / "io" / "log"
    log.write_bytes(b"x" * 4 * MIB)
    spool = spool_of(store, journal, directory)
    with nothing_freed(directory):
        spool.free(log, 3 * MIB)
        assert allotted(log) >= 4 * MIB
    spool.free(log, 3 * MIB)
    assert allotted(log) < 4 * MIB


def test_who_adopts_waits_for_a_freeing_that_has_begun(directory: Path) -> None:
    held = os.open(directory / "spool.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    entered = threading.Event()

    def adopt() -> None:
        with nothing_freed(directory):
            entered.set()

    thread = threading.Thread(target=adopt)
    thread.start()
    assert not entered.wait(0.2)
    os.close(held)
    thread.join(60)
    assert entered.is_set()


def test_nothing_is_freed_if_the_owner_cannot_be_found_out(tmp_path: Path, directory: Path) -> None:
    faults = Faults()
    store = faulty_store(str(tmp_path / "store"), faults)
    journal, log = claimed(store), directory / "io" / "log"
    log.write_bytes(b"x" * 4 * MIB)
    faults.cut()
    with pytest.raises(StoreError):
        spool_of(store, journal, directory).free(log, MIB)
    assert allotted(log) >= 4 * MIB


@pytest.mark.parametrize("kind", ["link", "second name", "pipe"])
def test_what_a_script_put_in_the_place_of_its_log_is_not_touched(tmp_path: Path, directory: Path, kind: str) -> None:
    store = Store(str(tmp_path / "store"))
    journal, log, other = claimed(store), directory / "io" / "log", tmp_path / "other"
    other.write_bytes(b"x" * MIB)
    log.unlink()
    if kind == "link":
        log.symlink_to(other)
    elif kind == "second name":
        log.hardlink_to(other)
    else:
        os.mkfifo(log)
    spool_of(store, journal, directory).free(log, MIB)
    assert other.read_bytes() == b"x" * MIB


def test_this_machine_can_free_parts_of_files(tmp_path: Path) -> None:
    assert holes.possible(tmp_path)
    path = tmp_path / "file"
    path.write_bytes(b"x" * MIB)
    with path.open("r+b") as file:
        holes.punch(file.fileno(), MIB // 2)
    assert allotted(path) == MIB // 2
    assert path.read_bytes() == b"\0" * (MIB // 2) + b"x" * (MIB // 2)

"""The copy of ended journals on a host, and lists that read little because of it; requests to the store are counted."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from studio import quick_settings, wait_for

from studio_celery.catalog import FIRST, Catalog, Found
from studio_celery.client import Client
from studio_celery.errors import StoreError, Unreadable
from studio_celery.experiment import Experiment, Status, new_id, utc_now
from studio_celery.index import Index
from studio_celery.journal import Entry, Kind
from studio_celery.store import Item, Journal, Objects, Store
from studio_celery.world import World

#: Entries of an experiment that was claimed, ran and finished.
LIFE: tuple[tuple[Kind, dict[str, Any]], ...] = (
    (Kind.QUEUED, {}),
    (Kind.CLAIMED, {"attempt": 1, "host": "h"}),
    (Kind.STARTED, {"epoch": 3}),
    (Kind.FINISHED, {"epoch": 3, "exit_code": 0}),
)


class Counted(Objects):
    """A store's objects that count what is asked of them."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.calls: Counter[str] = Counter()

    def _call(self, what: str, key: str, call: Callable[[], Any]) -> Any:
        self.calls[what] += 1
        return super()._call(what, key, call)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"))
    store.objects = Counted(store.url)
    return store


@pytest.fixture
def client(store: Store, tmp_path: Path) -> Client:
    return _client(store, tmp_path)


def _client(store: Store, folder: Path) -> Client:
    return Client(None, quick_settings(folder / "home"), World("memory://", store.url, "a test"), store)


@pytest.fixture
def index(tmp_path: Path, store: Store) -> Index:
    return Index(tmp_path / "home", store.url)


def record(store: Store, steps: int = len(LIFE), *, hour: int = 0) -> str:
    """An experiment that got so far in its life; its id. Written without syncing: there are thousands."""
    experiment = Experiment(
        id=new_id(), queue="q", script="a.py", workspace="0" * 64, submitted_at=f"2026-01-01T{hour:02}:00:00.000Z"
    )
    kinds = [(Kind.SUBMITTED, {"experiment": experiment.to_dict()}), *LIFE[:steps]]
    folder = Path(store.url) / "experiments" / experiment.id / "journal"
    folder.mkdir(parents=True)
    for number, (kind, data) in enumerate(kinds, 1):
        entry = Entry(kind=kind, by="w", at=utc_now(), data=data, nonce=str(number))
        (folder / f"{number:06d}.json").write_text(json.dumps(entry.to_dict()))
    marker = Path(store.url) / "index" / f"20260101T{hour:02}" / experiment.id
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    return experiment.id


def calls(store: Store) -> Counter[str]:
    """What was asked since the last time."""
    objects = store.objects
    assert isinstance(objects, Counted)
    made, objects.calls = objects.calls, Counter()
    return made


def test_the_second_list_of_thousands_reads_what_has_not_ended(store: Store, client: Client, tmp_path: Path) -> None:
    ended = [record(store, hour=n % 20) for n in range(2000)]
    waiting = [record(store, 1, hour=20) for _ in range(5)]
    running = [record(store, 3, hour=20) for _ in range(2)]
    first = client.list(10_000)
    assert len(first) == 2007
    assert calls(store)["read"] > 6 * 2000
    for reader in (client, _client(store, tmp_path)):  # the copy is the host's, and not one process's
        second = reader.list(10_000)
        asked = calls(store)
        assert second == first
        # Entries and the one that is not there, of those that go on; the heartbeats of two; the clock is not asked.
        assert asked["read"] == 5 * 3 + 2 * 5 + 2
        assert asked["listed"] == 1 + 21 + 1
        assert asked["written"] == 0
    assert {r["id"] for r in second} == {*ended, *waiting, *running}


def test_a_short_list_of_thousands_reads_one_portion(store: Store, client: Client) -> None:
    ids = [record(store, hour=n // 100) for n in range(600)]
    assert [r["id"] for r in client.list(3)] == sorted(ids, reverse=True)[:3]
    assert calls(store)["read"] == FIRST * 6
    client.list(3)
    assert calls(store) == {"listed": 3}


def test_what_goes_on_is_read_each_time(store: Store, client: Client) -> None:
    one = record(store, 3)
    assert client.list()[0]["status"] == "running"
    journal = store.journal(one)
    journal.refresh()
    assert journal.decide(Kind.FAILED, "w", epoch=3, reason="exit code 1", exit_code=1)
    assert [(r["status"], r["reason"]) for r in client.list()] == [("failed", "exit code 1")]


def test_what_was_removed_is_not_listed_whoever_removed_it(store: Store, client: Client, tmp_path: Path) -> None:
    here, elsewhere, stays = (record(store) for _ in range(3))
    assert len(client.list()) == 3
    client.remove(here)
    _client(store, tmp_path / "elsewhere").remove(elsewhere)
    assert [r["id"] for r in client.list()] == [stays]
    with sqlite3.connect(client._index.path) as database:
        assert here not in [row[0] for row in database.execute("SELECT id FROM journals")]


def test_what_an_interrupted_removal_left_is_not_listed(store: Store, client: Client) -> None:
    one = record(store)
    journal = store.journal(one)
    journal.refresh()
    assert journal.decide(Kind.REMOVED, "w")
    for _ in range(2):
        assert client.list() == []


def test_a_store_that_was_set_back_is_read_again(store: Store, client: Client) -> None:
    one = record(store)
    assert client.list()[0]["status"] == "finished"
    journal = Path(store.url) / "experiments" / one / "journal"
    for number in (3, 4, 5):
        (journal / f"{number:06d}.json").unlink()
    os.utime(next((Path(store.url) / "index").rglob(one)), (1.0, 1.0))
    assert client.list()[0]["status"] == "waiting"


def test_what_is_submitting_or_unknown_to_this_version_is_left_out(
    store: Store, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    record(store, 0)
    newer = record(store)
    first = Path(store.url) / "experiments" / newer / "journal" / "000001.json"
    first.write_text(first.read_text().replace('"experiment": {"schema": 1', '"experiment": {"schema": 99'))
    known = record(store)
    for _ in range(2):
        assert [r["id"] for r in client.list()] == [known]
    assert newer in caplog.text


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"schema": 1, "kind": "no such", "by": "w", "at": ""}',
        b'{"schema": 1, "kind": "submitted", "by": "w", "at": ""}',
    ],
)
@pytest.mark.parametrize("number", [1, 6])
def test_a_journal_that_cannot_be_read_costs_none_of_the_others(
    store: Store, client: Client, damage: bytes, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    one, broken, other = record(store), record(store), record(store, 1)
    (Path(store.url) / "experiments" / broken / "journal" / f"{number:06d}.json").write_bytes(damage)
    for _ in range(2):
        caplog.clear()
        assert [r["id"] for r in client.list()] == [other, one]
        assert broken in caplog.text
    with pytest.raises(Unreadable, match=f"{broken}/journal/{number:06d}.json, which is not readable"):
        client.show(broken)


def test_a_store_that_is_away_is_no_unreadable_journal(
    store: Store, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(store)
    gone = StoreError("The store does not answer.")
    monkeypatch.setattr(store.objects, "get_dated", lambda key: (_ for _ in ()).throw(gone))
    with pytest.raises(StoreError, match="does not answer"):
        client.list()


def test_what_a_newer_version_copied_is_read_again_and_costs_none_of_the_others(store: Store, client: Client) -> None:
    record(store), record(store)
    listed = client.list()
    with sqlite3.connect(client._index.path) as database:
        newer = 'REPLACE(entries, \'"schema":1,"kind"\', \'"schema":99,"kind"\')'
        changed = database.execute(f"UPDATE journals SET entries = {newer} WHERE id = ?", (listed[0]["id"],))
        assert changed.rowcount == 1
        (texts,) = database.execute("SELECT GROUP_CONCAT(entries) FROM journals").fetchone()
        assert '"schema":99' in texts
    calls(store)
    assert client.list() == listed
    assert 0 < calls(store)["read"] <= 6


@pytest.mark.parametrize("damage", [b"this is no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_made_anew(
    store: Store, client: Client, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    record(store)
    listed = client.list()
    client._index.path.write_bytes(damage)
    assert client.list() == listed
    assert "damaged" in caplog.text
    calls(store)
    assert client.list() == listed
    assert calls(store)["read"] == 0


def test_a_damaged_row_or_another_version_is_made_anew(store: Store, client: Client) -> None:
    record(store)
    listed = client.list()
    for damage in (
        "UPDATE journals SET entries = '[1]'",
        "UPDATE journals SET entries = '{'",
        "PRAGMA user_version = 7",
    ):
        with sqlite3.connect(client._index.path) as database:
            database.execute(damage)
        for _ in range(2):
            assert client.list() == listed
        calls(store)
        client.list()
        assert calls(store)["read"] == 0


def test_a_file_that_another_process_holds_is_done_without(
    store: Store, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("studio_celery.index._BUSY_SECONDS", 0.05)
    record(store)
    listed = client.list()
    caplog.set_level(logging.INFO)
    holder = sqlite3.connect(client._index.path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert client.list() == listed
    assert "locked" in caplog.text
    holder.close()


def test_a_home_that_cannot_be_written_is_done_without(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "home").write_text("a file where a directory is needed")
    record(store)
    caplog.set_level(logging.INFO)
    assert len(_client(store, tmp_path).list()) == 1
    assert "cannot be used now" in caplog.text


def test_it_keeps_the_latest_only(tmp_path: Path, store: Store) -> None:
    index = Index(tmp_path / "home", store.url, rows=10)
    markers = [Item(new_id(), 0, float(n)) for n in range(25)]
    entries = [Entry(kind=Kind.QUEUED, by="w", at="", stored_at=7.5)]
    for begin in (15, 5, 0):
        index.keep((marker, entries) for marker in markers[begin : begin + 10])
    assert set(index.find(markers)) == {marker.key for marker in markers[15:]}
    assert index.find(markers)[markers[-1].key] == entries


def test_stores_have_files_of_their_own_for_their_owners_eyes(tmp_path: Path, index: Index) -> None:
    assert index.path != Index(tmp_path / "home", "s3://bucket/prefix").path
    index.keep([(Item("a", 0, 1.0), [])])
    assert index.path.stat().st_mode & 0o777 == 0o600


def damage_whole(path: Path) -> bool:
    """Write over the beginning of a file; False if it is not whole, or not there because it is made anew."""
    try:
        with path.open("r+b") as file:
            whole = file.read(16) == b"SQLite format 3\0"
            file.seek(0)
            return whole and file.write(b"\xff" * 200) > 0
    except FileNotFoundError:
        return False


def test_many_processes_use_one_file(tmp_path: Path, index: Index) -> None:
    """Some write, one damages the file again and again: it is made anew each time, and nobody fails."""
    program = (
        "import itertools, sys; from pathlib import Path\n"
        "from studio_celery.index import Index; from studio_celery.store import Item\n"
        "home, url, name, enough = sys.argv[1:]\n"
        "index = Index(Path(home), url)\n"
        "for n in itertools.count():\n"
        "    index.keep([(Item(f'{name}-{n}', 0, float(n)), [])])\n"
        "    index.find([Item(f'{name}-{n}', 0, float(n))])\n"
        "    Path(enough + name).touch()\n"
        "    if Path(enough).exists(): break\n"
    )
    home, url, enough = tmp_path / "home", str(tmp_path / "store"), tmp_path / "enough"
    assert Index(home, url).path == index.path
    with ExitStack() as started:
        workers = []
        for name in "abc":
            argv = [sys.executable, "-c", program, str(home), url, name, str(enough)]
            worker = started.enter_context(subprocess.Popen(argv, stderr=subprocess.PIPE, text=True))
            started.callback(worker.kill)
            workers.append(worker)
        wait_for("all of them", lambda: all(Path(f"{enough}{name}").exists() for name in "abc"))
        for _ in range(5):
            wait_for("a whole file to damage", lambda: damage_whole(index.path))
        enough.touch()
        for worker in workers:
            _, said = worker.communicate(timeout=60)
            assert worker.returncode == 0, said
    index.keep([(Item("last", 0, 1.0), [])])
    assert set(index.find([Item("last", 0, 1.0)])) == {"last"}


def test_an_experiment_that_ends_while_it_is_listed_is_copied_with_its_end(store: Store, index: Index) -> None:
    """Whoever looks may record the end that is due: that is what is copied."""
    one = record(store, 1)

    def look(journal: Journal) -> Any:
        journal.refresh()
        journal.decide(Kind.EXPIRED, "w", reason="too late")
        return journal.state

    def found() -> Iterator[Found]:
        return Catalog(store, index, look).all()

    assert [each.state.status for each in found()] == [Status.EXPIRED]
    calls(store)
    again = next(found())
    assert (again.id, again.state.reason, again.journal) == (one, "too late", None)
    assert calls(store)["read"] == 0

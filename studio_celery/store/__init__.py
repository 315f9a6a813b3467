"""Where experiments are recorded: journals, heartbeats, logs, artifacts and blobs over one `Objects`.

Every key of the layout is written here and nowhere else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from studio_celery.experiment import Attempt, Experiment
from studio_celery.journal import Kind
from studio_celery.store.forked import open_objects
from studio_celery.store.journals import Journal
from studio_celery.store.keys import decode_name, encode_name
from studio_celery.store.logs import LogReader, LogWriter
from studio_celery.store.objects import Item, Objects

__all__ = ["BLOB_REFRESH_SECONDS", "Item", "Journal", "LogReader", "LogWriter", "Objects", "Store"]

logger = logging.getLogger(__name__)

#: Objects that are read at a time: a store far away answers each after tens of milliseconds.
READERS = 16

#: A blob older than this is stored again by whoever needs it, seconds; half of what `studio gc` spares.
BLOB_REFRESH_SECONDS = 12 * 3600.0


class Store:
    """One store; cheap to make, but never shared across a fork."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.objects = open_objects(url)

    def check(self) -> None:
        """Raise `StoreError` with a sentence if the store cannot be written."""
        self.objects.put("check", b"studio-celery writes this to see whether it may.\n")

    def journal(self, experiment_id: str) -> Journal:
        """The journal, not read yet."""
        return Journal(self.objects, experiment_id)

    def submit(self, experiment: Experiment, by: str) -> Journal:
        """Record a new experiment; it stays `submitting` until `queued` is appended.

        Submitting one of the same id again finds its journal and changes nothing, whatever the rest of it says.
        """
        journal = self.journal(experiment.id)
        journal.decide(Kind.SUBMITTED, by, experiment=experiment.to_dict())
        # Of what was recorded: another submission may be of another hour. What was removed has none.
        if journal.state.experiment is not None and not journal.state.removed:
            self.objects.create(_marker_key(journal.state.experiment), b"")
        return journal

    def put_message(self, experiment_id: str, message: bytes) -> None:
        """Keep the experiment's message, so that it can be sent again."""
        self.objects.put_durably(_message_key(experiment_id), message)

    def message(self, experiment_id: str) -> bytes:
        """What `put_message` kept; `KeyError` if there is none."""
        return self.objects.get(_message_key(experiment_id))

    def take_turn(self, experiment_id: str, queued_seq: int, *, turn_seconds: float) -> bool:
        """Be the one who queues it again after its entry `queued_seq`; False if somebody else is, or was.

        Who took the turn longer ago than `turn_seconds` and did not append another `queued` has ended without it.
        """
        key = _turn_key(experiment_id, queued_seq)
        if self.objects.create(key, b""):
            return True
        with suppress(KeyError):  # a turn that is over by now: what is there next is somebody else's
            if self.now() - self.objects.head(key).modified > turn_seconds:
                self.objects.delete(key)
                return self.objects.create(key, b"")
        return False

    def end_turn(self, experiment_id: str, queued_seq: int) -> None:
        """Let somebody else try, or clear away: the turn is over."""
        self.objects.delete(_turn_key(experiment_id, queued_seq))

    def recent(self) -> Iterator[str]:
        """Ids of experiments, the latest first, found by their hour markers."""
        for item in self.markers():
            yield item.key

    def markers(self) -> Iterator[Item]:
        """The ids of `recent` as keys, with the time at which they were recorded."""
        for hour in reversed(self.objects.folders("index")):
            # Ids that a canvas gave do not sort by time.
            items = sorted(self.objects.listing(f"index/{hour}"), key=lambda item: (item.modified, item.key))
            for item in reversed(items):
                yield Item(item.key.rsplit("/", 1)[-1], item.size, item.modified)

    def now(self) -> float:
        """The store's clock, seconds since 1970: the last-modified time of something just written."""
        self.check()
        return self.objects.head("check").modified

    def heartbeat(self, experiment_id: str, attempt: int, status: Mapping[str, Any]) -> None:
        """Overwrite the attempt's heartbeat."""
        self.objects.put(_heartbeat_key(experiment_id, attempt), json.dumps(status).encode())

    def heartbeat_modified(self, experiment_id: str, attempt: int) -> float | None:
        """When the last heartbeat was stored, on the store's clock; None if there was none."""
        try:
            return self.objects.head(_heartbeat_key(experiment_id, attempt)).modified
        except KeyError:
            return None

    def heartbeat_status(self, experiment_id: str, attempt: int) -> Mapping[str, Any]:
        """The last heartbeat, empty if there was none; `at` is when it was stored."""
        try:
            body, modified = self.objects.get_dated(_heartbeat_key(experiment_id, attempt))
        except KeyError:
            return {}
        return {**json.loads(body), "stored_at": modified}

    def write_worker(self, worker_id: str, facts: Mapping[str, Any]) -> float:
        """Overwrite a worker's heartbeat; the time of it, which is `now` on the store's clock."""
        key = f"workers/{worker_id}.json"
        self.objects.put(key, json.dumps(facts).encode())
        return self.objects.head(key).modified

    def workers(self) -> list[Mapping[str, Any]]:
        """What all workers wrote last, with `id` and `stored_at`; without one that leaves meanwhile."""
        items = self.objects.listing("workers")
        with ThreadPoolExecutor(READERS, thread_name_prefix="workers") as readers:
            return [worker for worker in readers.map(self._worker, items) if worker is not None]

    def _worker(self, item: Item) -> Mapping[str, Any] | None:
        """What a listed worker wrote; None if it left meanwhile, or if that is not readable."""
        worker_id = item.key.rsplit("/", 1)[-1].removesuffix(".json")
        try:
            return {**json.loads(self.objects.get(item.key)), "id": worker_id, "stored_at": item.modified}
        except KeyError:
            return None
        except (ValueError, TypeError) as exc:
            logger.warning("Worker %s is left out: what it wrote last is not readable (%s).", worker_id, exc)
            return None

    def worker_times(self) -> dict[str, float]:
        """When each worker last wrote, by its id; store's clock."""
        items = self.objects.listing("workers")
        return {item.key.rsplit("/", 1)[-1].removesuffix(".json"): item.modified for item in items}

    def forget_worker(self, worker_id: str) -> None:
        """Remove what a worker wrote, at its orderly end or long after its last sign of life."""
        self.objects.delete(f"workers/{worker_id}.json")

    def reject(self, queue: str, message_id: str, facts: Mapping[str, Any]) -> None:
        """Keep what a queue held and nobody could use, with the reason."""
        key = encode_name(f"rejected/{queue}/{message_id}.json")
        self.objects.put(key, json.dumps(facts, default=repr).encode())

    def log_writer(self, experiment_id: str, attempt: int, epoch: int, offset: int) -> LogWriter:
        """Writes the attempt's output under `epoch`, from byte `offset` on."""
        return LogWriter(self.objects, _log_prefix(experiment_id, attempt), epoch, offset)

    def log_reader(self, experiment_id: str, attempt: Attempt) -> LogReader:
        """Reads the attempt's output."""
        return LogReader(self.objects, _log_prefix(experiment_id, attempt.number))

    def put_blob(self, digest: str, source: Path) -> bool:
        """Store a file under its SHA-256; False if it was there already, and recently enough to stay.

        A blob that nobody refers to yet is safe for half a day from here on: `studio gc` spares what is younger than a
        day.
        """
        key = _blob_key(digest)
        with suppress(KeyError):
            if self.objects.head(key).modified > self.now() - BLOB_REFRESH_SECONDS:
                return False
        self.objects.put(key, source)
        return True

    def has_blob(self, digest: str) -> bool:
        """Whether there is such a blob."""
        return self.objects.exists(_blob_key(digest))

    def blobs(self) -> list[Item]:
        """All blobs; keys are digests."""
        items = self.objects.listing("blobs")
        return [Item(item.key.rsplit("/", 1)[-1], item.size, item.modified) for item in items]

    def delete_blobs(self, digests: Iterable[str]) -> None:
        """Remove blobs; only for `garbage`, which knows that nobody needs them."""
        self.objects.delete_all(map(_blob_key, digests))

    def get_blob(self, digest: str, destination: Path) -> None:
        """Copy a blob to a file; `KeyError` if there is none."""
        _save(self.objects.stream(_blob_key(digest)), destination)

    def put_artifact(self, experiment_id: str, attempt: int, tag: str, path: str, source: Path) -> None:
        """Store one file of an artifact."""
        self.objects.put(f"{_artifact_prefix(experiment_id, attempt)}/{encode_name(f'{tag}/{path}')}", source)

    def artifact_files(self, experiment_id: str, attempt: int) -> list[Item]:
        """All files of an attempt's artifacts; keys relative, `<tag>/<path>`."""
        prefix = _artifact_prefix(experiment_id, attempt)
        items = self.objects.listing(prefix)
        return [Item(decode_name(item.key.removeprefix(f"{prefix}/")), item.size, item.modified) for item in items]

    def clear(self, experiment: Experiment) -> None:
        """Remove all of an experiment but its journal: marker, message, heartbeats, output, artifacts."""
        self.objects.delete(_marker_key(experiment))
        self.objects.delete(_message_key(experiment.id))
        for part in ("attempts", "turns"):
            self.objects.delete_all(item.key for item in self.objects.listing(f"experiments/{experiment.id}/{part}"))

    def artifact_stream(self, experiment_id: str, attempt: int, key: str) -> Iterator[bytes]:
        """One file of an artifact in pieces; `KeyError` if there is none."""
        return self.objects.stream(f"{_artifact_prefix(experiment_id, attempt)}/{encode_name(key)}")


def _marker_key(experiment: Experiment) -> str:
    hour = experiment.submitted_at[:13].replace("-", "")
    return f"index/{hour}/{experiment.id}"


def _message_key(experiment_id: str) -> str:
    return f"experiments/{experiment_id}/message.json"


def _turn_key(experiment_id: str, queued_seq: int) -> str:
    return f"experiments/{experiment_id}/turns/{queued_seq:06d}"


def _heartbeat_key(experiment_id: str, attempt: int) -> str:
    return f"experiments/{experiment_id}/attempts/{attempt}/status.json"


def _log_prefix(experiment_id: str, attempt: int) -> str:
    return f"experiments/{experiment_id}/attempts/{attempt}/log"


def _artifact_prefix(experiment_id: str, attempt: int) -> str:
    return f"experiments/{experiment_id}/attempts/{attempt}/artifacts"


def _blob_key(digest: str) -> str:
    return f"blobs/{digest}"


def _save(pieces: Iterator[bytes], destination: Path) -> None:
    with destination.open("wb") as file:
        for piece in pieces:
            file.write(piece)

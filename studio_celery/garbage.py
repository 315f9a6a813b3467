"""What nobody needs any more in a store, and how it goes: `studio gc`.

- Blobs (workspaces) that no experiment refers to and that are older than a day.
- Whatever is left of removed experiments; their journals once they have been kept for 31 days.
- Temporary files of writers that were killed, where the store is a directory.

A submission in progress needs a blob that no journal names yet. It is safe: `Store.put_blob` stores again what is older
than half a day, so the blob is young; and for one that was listed before, the two sides announce themselves to each
other. The collector announces what it is about to remove, *then* reads the new journals, then removes. The submitter
records the experiment, *then* looks for announcements (`outlast`). Whatever the order, one of them sees the other.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from studio_celery.errors import StoreError
from studio_celery.experiment import Experiment
from studio_celery.journal import Kind
from studio_celery.store import BLOB_REFRESH_SECONDS, Item, Store

logger = logging.getLogger(__name__)

#: Blobs younger than this are spared, seconds.
SPARED_SECONDS = 2 * BLOB_REFRESH_SECONDS

#: How long the journal of a removed experiment is kept, seconds: no message lives longer on Google Pub/Sub.
JOURNAL_SECONDS = 31 * 86400.0

#: An announcement older than this is that of a collector that was killed; a living one gives up at half of it. Seconds.
ANNOUNCED_SECONDS = 3600.0

#: How long a submitter waits for a collector that announced its blob, seconds.
PATIENCE_SECONDS = 60.0

#: Journals that are read at a time: a store far away answers each after tens of milliseconds.
READERS = 16

#: How a blob is referred to, wherever in a journal.
_DIGEST = re.compile(rb"[0-9a-f]{64}")

#: Where collectors announce themselves.
_ANNOUNCEMENTS = "gc"

#: How a temporary file of a store in a directory is called.
_TEMPORARY = re.compile(r".+#\d+")


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What was removed, or would be."""

    dry_run: bool
    blobs: int
    bytes: int
    kept_blobs: int
    kept_bytes: int
    #: Journals of experiments that were removed long ago.
    experiments: int
    #: Temporary files of killed writers.
    temporary_files: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Pages:
    """One journal as it is stored: whatever wrote it, and whichever version."""

    experiment_id: str
    keys: tuple[str, ...]
    bodies: tuple[bytes, ...]
    #: When it was removed, on the store's clock; None if it was not.
    removed_at: float | None

    @property
    def digests(self) -> frozenset[str]:
        """Blobs that it may refer to."""
        if self.removed_at is not None:
            return frozenset()
        return frozenset(found.decode() for body in self.bodies for found in _DIGEST.findall(body))


class Garbage:
    """Of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self, *, dry_run: bool) -> Collected:
        """Remove what nobody needs; a `StoreError` leaves everything that was not looked at."""
        now, blobs = self._store.now(), self._store.blobs()
        journals = self._read(self._store.objects.folders("experiments"))
        needed = {digest for pages in journals for digest in pages.digests}
        doomed = [b for b in blobs if b.key not in needed and now - b.modified > SPARED_SECONDS]
        forgotten = [p for p in journals if p.removed_at is not None and now - p.removed_at > JOURNAL_SECONDS]
        temporary = list(_temporary_files(self._store.objects.root, SPARED_SECONDS))
        if not dry_run:
            # An experiment may have a directory before its journal has an entry: that one is looked at again.
            doomed = self._remove(doomed, {p.experiment_id for p in journals if p.keys}) if doomed else []
            self._finish_removals(journals, forgotten)
            for path in temporary:
                path.unlink(missing_ok=True)
            _prune(self._store.objects.root, SPARED_SECONDS)
        size = sum(blob.size for blob in doomed)
        return Collected(
            dry_run=dry_run,
            blobs=len(doomed),
            bytes=size,
            kept_blobs=len(blobs) - len(doomed),
            kept_bytes=sum(blob.size for blob in blobs) - size,
            experiments=len(forgotten),
            temporary_files=len(temporary),
        )

    def _remove(self, blobs: list[Item], known: set[str]) -> list[Item]:
        """Announce, look for new experiments, remove; what was removed."""
        with self._announced(blob.key for blob in blobs) as announced_at:
            fresh = self._read(set(self._store.objects.folders("experiments")) - known)
            needed = {digest for pages in fresh for digest in pages.digests}
            young = {blob.key for blob in self._store.blobs() if announced_at - blob.modified <= SPARED_SECONDS}
            chosen = [blob for blob in blobs if blob.key not in needed | young]
            if self._store.now() - announced_at > ANNOUNCED_SECONDS / 2:
                raise StoreError("Collecting took too long to be safe, so no blob was removed: run `studio gc` again.")
            self._store.delete_blobs(blob.key for blob in chosen)
            return chosen

    @contextmanager
    def _announced(self, digests: Iterable[str]) -> Iterator[float]:
        objects = self._store.objects
        key = f"{_ANNOUNCEMENTS}/{uuid.uuid4().hex}.json"
        objects.put(key, json.dumps(sorted(digests)).encode())
        try:
            yield objects.head(key).modified
        finally:
            objects.delete(key)

    def _read(self, ids: Iterable[str]) -> list[Pages]:
        with ThreadPoolExecutor(READERS) as readers:
            return list(readers.map(self._pages, sorted(ids)))

    def _pages(self, experiment_id: str) -> Pages:
        bodies: dict[str, bytes] = {}
        removed_at = None
        for item in self._store.objects.listing(f"experiments/{experiment_id}/journal"):
            try:
                bodies[item.key] = self._store.objects.get(item.key)
            except KeyError:
                logger.debug("Another collector has removed %s.", item.key)
                continue
            if _kind(item.key, bodies[item.key]) == Kind.REMOVED:
                removed_at = item.modified
        return Pages(experiment_id, tuple(bodies), tuple(bodies.values()), removed_at)

    def _finish_removals(self, journals: list[Pages], forgotten: list[Pages]) -> None:
        """Remove what an interrupted `studio rm`, or an owner that was cut off, left of removed experiments."""
        for pages in journals:
            experiment = _experiment(pages) if pages.removed_at is not None else None
            if experiment is not None:
                self._store.clear(experiment)
        for pages in forgotten:
            for key in pages.keys:  # `removed` last: an interrupted removal is recognised by it
                self._store.objects.delete(key)


def outlast(store: Store, digest: str, source: Path) -> None:
    """See to it that a blob is there and stays: for a submitter, right after it recorded the experiment."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while _is_announced(store, digest):
        if time.monotonic() > deadline:
            raise StoreError(
                f"The workspace is about to be removed from {store.url} by a `studio gc` that does not end: "
                "wait for it, or run it again, and submit again."
            )
        time.sleep(0.2)
    if not store.has_blob(digest):
        store.put_blob(digest, source)


def _is_announced(store: Store, digest: str) -> bool:
    items = store.objects.listing(_ANNOUNCEMENTS)
    if not items:
        return False
    now = store.now()
    for item in items:
        if now - item.modified > ANNOUNCED_SECONDS:
            store.objects.delete(item.key)
            continue
        try:
            if digest in json.loads(store.objects.get(item.key)):
                return True
        except KeyError:
            logger.debug("The collector of %s has ended.", item.key)
    return False


def _kind(key: str, body: bytes) -> str:
    try:
        return str(json.loads(body)["kind"])
    except (ValueError, KeyError, TypeError) as exc:
        raise StoreError(
            f"The store holds {key}, which is not readable, so nothing can be said to be unneeded. "
            "Restore it from a backup."
        ) from exc


def _experiment(pages: Pages) -> Experiment | None:
    """What `Store.clear` needs to know: id, and hour of submission; None if its first entry went after all else."""
    at = json.loads(pages.bodies[0]).get("experiment", {}).get("submitted_at")
    if at is None:
        return None
    return Experiment(id=pages.experiment_id, queue="q", script="s", workspace="", submitted_at=at)


def _prune(root: Path | None, seconds: float) -> None:
    """Remove directories that were emptied long ago: other stores have none."""
    for part in [root / name for name in ("experiments", "index")] if root else []:
        for folder, _, _ in os.walk(part, topdown=False):
            with suppress(OSError):  # not empty, or somebody else was here
                if time.time() - Path(folder).stat().st_mtime > seconds:
                    Path(folder).rmdir()


def _temporary_files(root: Path | None, seconds: float) -> Iterator[Path]:
    """Files that were never given their name, where the store is a directory of this machine."""
    # Not by `Path.rglob`, which fails if a directory goes while it looks: another collector may prune.
    for folder, _, names in os.walk(root) if root else ():
        for path in (Path(folder, name) for name in names if _TEMPORARY.fullmatch(name)):
            try:
                if path.is_file() and time.time() - path.stat().st_mtime > seconds:
                    yield path
            except FileNotFoundError:
                logger.debug("%s has its name by now.", path)

"""The one door to `obstore`: keys and bytes in a local directory, `gs://` or `s3://`.

The one primitive that everything rests on is `create`: it writes an object only if there is none. On local disk it is a
temporary file, synced, linked to its name, the directory synced, because obstore's own create does not sync.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, from_url

from studio_celery.errors import SettingsError, StoreError

#: Several tries inside ten seconds: a passing error is not seen, an outage is reported before a person gives up.
_RETRIES: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=10)}
_CLIENT: Any = {"timeout": "60s", "connect_timeout": "5s"}

#: Objects that one request may remove: what S3 allows.
_DELETED_TOGETHER = 1000

#: What can be done with an object only if there is one; a write that finds nothing misses the bucket itself.
_OF_ONE = frozenset({"read", "removed"})

#: Processes from which obstore was used, in the memory that a forked child inherits: it hangs in the child.
_users: set[int] = set()


def runs_elsewhere() -> bool:
    """Whether this process was forked from one that had used obstore, and must not use it itself."""
    return bool(_users - {os.getpid()})


@dataclass(frozen=True)
class Item:
    """One object of a listing."""

    key: str
    size: int
    #: Last-modified time on the store's clock, seconds since 1970.
    modified: float


class Objects:
    """Objects below one URL or directory. Made per process: never used on both sides of a fork."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.root = _local_root(url)
        self._store = self._open()
        self._mounted = self.root is not None and self.root.is_mount()

    def _open(self) -> Any:
        try:
            if self.root is not None:
                # What is recorded can hold secrets of its owner; a shared directory is made by whoever shares it.
                self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
                return LocalStore(prefix=self.root)
            # obstore reads the variables of S3 itself, but takes its client's options from one place only.
            client: Any = {**_CLIENT, "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")}
            return from_url(self.url, retry_config=_RETRIES, client_options=client)
        except OSError as exc:
            raise StoreError(
                f"The store {self.url} cannot be written: {exc.strerror or exc}. "
                "Check STUDIO_STORE and the permissions."
            ) from exc
        except (BaseError, ValueError) as exc:
            raise SettingsError(f"STUDIO_STORE {self.url} cannot be used: {_first_line(exc)}") from exc

    def _check_root(self) -> None:
        """Raise `StoreError` if the directory has gone, or what was mounted there: a new one would be another store."""
        if self.root is None or (self.root.is_mount() if self._mounted else self.root.is_dir()):
            return
        raise StoreError(f"The store {self.url} is not there: bring its directory back, or mount it again.")

    def _call(self, what: str, key: str, call: Callable[[], Any]) -> Any:
        _users.add(os.getpid())
        self._check_root()
        try:
            return call()
        except (BaseError, OSError, ValueError) as exc:
            if what in _OF_ONE and isinstance(exc, NotFoundError | FileNotFoundError | NotADirectoryError):
                raise KeyError(key) from None
            raise StoreError(
                f"The store {self.url} cannot be {what} ({key}): {_first_line(exc)} "
                "Check that it is reachable and that you may use it."
            ) from exc

    def create(self, key: str, data: bytes) -> bool:
        """Write `data` if there is no object `key`; False if there is one."""
        if self.root is not None:
            return bool(self._call("written", key, lambda: _create_file(self._path(key), data)))
        try:
            self._call("written", key, lambda: obstore.put(self._store, key, data, mode="create"))
        except StoreError as exc:
            if isinstance(exc.__cause__, AlreadyExistsError):
                return False
            raise
        return True

    def put(self, key: str, data: bytes | Path) -> None:
        """Write or overwrite, atomically; a `Path` is streamed."""
        self._call("written", key, lambda: obstore.put(self._store, key, data))

    def get(self, key: str) -> bytes:
        """The whole object; `KeyError` if there is none."""
        return self.get_dated(key)[0]

    def get_dated(self, key: str) -> tuple[bytes, float]:
        """The object and its last-modified time."""

        def fetch() -> tuple[bytes, float]:
            found = obstore.get(self._store, key)
            return bytes(found.bytes()), found.meta["last_modified"].timestamp()

        result: tuple[bytes, float] = self._call("read", key, fetch)
        return result

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`, which must exist."""
        fetch = lambda: bytes(obstore.get_range(self._store, key, start=start, length=length))  # noqa: E731
        data: bytes = self._call("read", key, fetch)
        return data

    def stream(self, key: str) -> Iterator[bytes]:
        """The object in pieces; `KeyError` if there is none."""
        pieces = self._call("read", key, lambda: obstore.get(self._store, key).stream())
        while True:
            piece = self._call("read", key, lambda: next(pieces, None))
            if piece is None:
                return
            yield bytes(piece)

    def head(self, key: str) -> Item:
        """Size and date; `KeyError` if there is none."""
        meta = self._call("read", key, lambda: obstore.head(self._store, key))
        return Item(key, meta["size"], meta["last_modified"].timestamp())

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        with suppress(KeyError):
            self.head(key)
            return True
        return False

    def listing(self, prefix: str) -> list[Item]:
        """All objects below `prefix` (a whole path component), sorted by key."""
        batches = self._call("listed", prefix, lambda: list(obstore.list(self._store, prefix)))
        items = [Item(m["path"], m["size"], m["last_modified"].timestamp()) for batch in batches for m in batch]
        return sorted(items, key=lambda item: item.key)

    def folders(self, prefix: str) -> list[str]:
        """Names one level below `prefix`, sorted."""
        found = self._call("listed", prefix, lambda: obstore.list_with_delimiter(self._store, prefix))
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found["common_prefixes"])

    def delete(self, key: str) -> None:
        """Remove; an object that is not there is no error."""
        with suppress(KeyError):
            self._call("removed", key, lambda: obstore.delete(self._store, key))

    def delete_all(self, keys: Iterable[str]) -> None:
        """Remove many, with few requests where the store can; what is not there is no error."""
        chosen = list(keys)
        for begin in range(0, len(chosen), _DELETED_TOGETHER):
            self._delete(chosen[begin : begin + _DELETED_TOGETHER])

    def _delete(self, keys: list[str]) -> None:
        if self.root is None:
            with suppress(KeyError):
                self._call("removed", keys[0], lambda: obstore.delete(self._store, keys))
                return
        for key in keys:
            self.delete(key)

    def _path(self, key: str) -> Path:
        assert self.root is not None
        return self.root.joinpath(*key.split("/"))


def _local_root(url: str) -> Path | None:
    if url.startswith("file://"):
        return Path(url.removeprefix("file://"))
    return None if "://" in url else Path(url)


def _create_file(path: Path, data: bytes) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    # obstore leaves names that end in `#` and digits out of its listings.
    temporary = path.with_name(f"{path.name}#{uuid.uuid4().int}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)
    return True


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(exc: BaseException) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.strerror}."
    lines = str(exc).strip().splitlines()
    return f"{lines[0].rstrip('.')}." if lines else f"{type(exc).__name__}."

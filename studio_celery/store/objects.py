"""The one door to `obstore`: keys and bytes in a local directory, `gs://` or `s3://`.

The one primitive that everything rests on is `create`: it writes an object only if there is none. On local disk it is a
temporary file, synced, linked to its name, the directory synced, because obstore's own create does not sync.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.store import LocalStore, from_url

from studio_celery.errors import SettingsError, StoreError, StoreRefusal
from studio_celery.store.limits import LEAST_PART, check_bucket_key, check_file_key, never_taken, parts_of

#: Several tries inside ten seconds: a passing error is not seen, an outage is reported before a person gives up.
_RETRIES: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=10)}

#: Times of one request, from its first byte to the last of its answer. What is small comes or goes in a minute.
_SMALL: Any = {"timeout": "60s"}

#: A piece of a large object may take as long as it needs, if there is no minute without a byte of it.
_DOWNLOAD: Any = {"timeout": "1h", "read_timeout": "60s"}

#: Of parts of a large object nobody can see whether they move on: 20 MiB have ten minutes, a third of a Mbit/s.
_UPLOAD: Any = {"timeout": "10m"}

#: Bytes of a large object that one request asks for: what a cut costs.
PIECE_BYTES = 8 * 2**20

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
    #: What the store calls this version of the object, if it tells.
    e_tag: str | None = field(default=None, compare=False)


class Objects:
    """Objects below one URL or directory. Made per process: never used on both sides of a fork."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.root = _local_root(url)
        self._store = self._open(_SMALL)
        self._mounted = self.root is not None and self.root.is_mount()

    @cached_property
    def _downloads(self) -> Any:
        return self._store if self.root is not None else self._open(_DOWNLOAD)

    @cached_property
    def _uploads(self) -> Any:
        return self._open(_UPLOAD)

    def _open(self, times: Any) -> Any:
        try:
            if self.root is not None:
                # What is recorded can hold secrets of its owner; a shared directory is made by whoever shares it.
                self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
                return LocalStore(prefix=self.root)
            # obstore reads the variables of S3 itself, but takes its client's options from one place only.
            http = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
            client: Any = {"connect_timeout": "5s", "allow_http": http, **times}
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
            if what == "written" and never_taken(str(exc)):
                raise StoreRefusal(
                    f"The store {self.url} never takes {key}: {_first_line(exc)} Shorten its name, or make it smaller."
                ) from exc
            if isinstance(exc, PreconditionError):
                raise StoreError(
                    f"{key} in the store {self.url} was replaced while it was read: read it again."
                ) from exc
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
        """Write or overwrite, atomically; a `Path` is streamed. `StoreRefusal` if the store can never hold it."""

        write = lambda: self._put_file(key, data) if self.root is not None else self._upload(key, data)  # noqa: E731
        self._call("written", key, write)

    def _put_file(self, key: str, data: bytes | Path) -> None:
        assert self.root is not None
        check_file_key(self.root, key)
        obstore.put(self._store, key, data)

    def _upload(self, key: str, data: bytes | Path) -> None:
        check_bucket_key(self.url, key)
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        part, together = parts_of(size)
        store = self._store if size <= LEAST_PART else self._uploads
        obstore.put(store, key, data, chunk_size=part, max_concurrency=together)

    def put_durably(self, key: str, data: bytes) -> None:
        """The same; on local disk it is synced, as what `create` writes is."""
        if self.root is None:
            self.put(key, data)
        else:
            self._call("written", key, lambda: _replace_file(self._path(key), data))

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

    def get_range(self, key: str, start: int, length: int, e_tag: str | None = None) -> bytes:
        """`length` bytes from `start`, which must exist; of the version `e_tag`, `StoreError` if that is gone."""
        options: Any = {"range": (start, start + length), **({"if_match": e_tag} if e_tag else {})}
        fetch = lambda: bytes(obstore.get(self._downloads, key, options=options).bytes())  # noqa: E731
        data: bytes = self._call("read", key, fetch)
        return data

    def stream(self, key: str) -> Iterator[bytes]:
        """The object in pieces, each asked for by itself, all of one version; `KeyError` if there is none."""
        item = self.head(key)
        for start in range(0, item.size, PIECE_BYTES):
            yield self.get_range(key, start, min(PIECE_BYTES, item.size - start), item.e_tag)

    def head(self, key: str) -> Item:
        """Size and date; `KeyError` if there is none."""
        meta = self._call("read", key, lambda: obstore.head(self._store, key))
        return Item(key, meta["size"], meta["last_modified"].timestamp(), meta["e_tag"])

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
    with _synced_file(path, data) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
    _sync_directory(path.parent)
    return True


def _replace_file(path: Path, data: bytes) -> None:
    with _synced_file(path, data) as temporary:
        temporary.replace(path)
    _sync_directory(path.parent)


@contextmanager
def _synced_file(path: Path, data: bytes) -> Iterator[Path]:
    """A temporary file beside `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # obstore leaves names that end in `#` and digits out of its listings.
    temporary = path.with_name(f"{path.name}#{uuid.uuid4().int}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


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

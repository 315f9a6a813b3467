"""A store for processes that were forked from one which had used obstore: there it hangs, whatever is made anew.

`Objects` of such a process are served by a helper, a fresh interpreter that ends with it. Nobody else needs one.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from studio_celery.errors import StoreError, StudioError
from studio_celery.store.objects import Item, Objects, runs_elsewhere


def open_objects(url: str) -> Objects:
    """The objects below `url`, as this process can reach them."""
    return ForkedObjects(url) if runs_elsewhere() else Objects(url)


class ForkedObjects(Objects):
    """The same, asked through the helper of this process."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._helper = _helper(os.getpid())

    def _open(self, times: Any) -> Any:
        return None

    def _ask(self, method: str, *args: Any) -> Any:
        return self._helper.ask(self.url, method, args)

    def create(self, key: str, data: bytes) -> bool:
        """As `Objects.create`."""
        return bool(self._ask("create", key, data))

    def put(self, key: str, data: bytes | Path) -> None:
        """As `Objects.put`."""
        self._ask("put", key, data)

    def put_durably(self, key: str, data: bytes) -> None:
        """As `Objects.put_durably`."""
        self._ask("put_durably", key, data)

    def get_dated(self, key: str) -> tuple[bytes, float]:
        """As `Objects.get_dated`."""
        found: tuple[bytes, float] = self._ask("get_dated", key)
        return found

    def get_range(self, key: str, start: int, length: int, e_tag: str | None = None) -> bytes:
        """As `Objects.get_range`."""
        return bytes(self._ask("get_range", key, start, length, e_tag))

    def head(self, key: str) -> Item:
        """As `Objects.head`."""
        item: Item = self._ask("head", key)
        return item

    def listing(self, prefix: str) -> list[Item]:
        """As `Objects.listing`."""
        return list(self._ask("listing", prefix))

    def folders(self, prefix: str) -> list[str]:
        """As `Objects.folders`."""
        return list(self._ask("folders", prefix))

    def delete(self, key: str) -> None:
        """As `Objects.delete`."""
        self._ask("delete", key)

    def delete_all(self, keys: Iterable[str]) -> None:
        """As `Objects.delete_all`."""
        self._ask("delete_all", list(keys))


class Helper:
    """A process that asks the store for us, one question at a time; it ends when its input does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        program = f"from {__name__} import serve; serve()"
        return subprocess.Popen(
            # A session of its own: Ctrl-C ends us first, and then the helper, whose input ends with us.
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def ask(self, url: str, method: str, args: tuple[Any, ...]) -> Any:
        """What the method of `Objects` returns, or raises."""
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            try:
                pickle.dump((url, method, args), self._process.stdin)
                self._process.stdin.flush()
                good, value = pickle.load(self._process.stdout)
            except (EOFError, BrokenPipeError) as exc:
                self._process.wait()
                self._process = self._start()
                raise StoreError(f"The store {url} cannot be used: its helper process ended. Try again.") from exc
        if not good:
            raise value
        return value


@cache
def _helper(pid: int) -> Helper:
    """The helper of this process; a forked child has another pid and so another helper."""
    return Helper()


def serve() -> None:
    """Answer until there are no more questions."""
    opened = cache(Objects)
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may write among the answers
    while True:
        try:
            url, method, args = pickle.load(questions)
        except EOFError:
            return
        try:
            answer = True, getattr(opened(url), method)(*args)
        except (KeyError, StudioError) as exc:
            answer = False, exc
        pickle.dump(answer, answers)
        answers.flush()

"""Locks between processes: one holder, many readers, files that may be removed by their holder."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from studio import wait_for

from studio_celery.locks import locked, try_lock
from studio_celery.runtimes.contract import Cancellation


def never() -> bool:
    return False


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    first = try_lock(path)
    assert first is not None
    assert try_lock(path) is None
    assert try_lock(path, shared=True) is None
    first.release()
    with try_lock(path) or pytest.fail("the lock is not free") as again:
        assert again.path == path


def test_a_shared_lock_has_many_holders_and_keeps_others_out(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    readers = [try_lock(path, shared=True) for _ in range(2)]
    assert all(readers)
    assert try_lock(path) is None
    for reader in readers:
        assert reader is not None
        reader.release()
    assert try_lock(path) is not None


def test_whoever_waits_gets_a_lock_on_the_file_that_is_there(tmp_path: Path) -> None:
    path, told = tmp_path / "a.lock", threading.Event()
    first = try_lock(path)
    assert first is not None
    got: list[bool] = []

    def wait() -> None:
        with locked(path, told.set, never) as second:
            got.append(os.path.samestat(path.stat(), os.fstat(second._descriptor)))

    thread = threading.Thread(target=wait)
    thread.start()
    assert told.wait(60)
    first.remove()
    first.release()
    thread.join(60)
    assert got == [True]


def test_waiting_is_given_up_when_nobody_wants_it(tmp_path: Path) -> None:
    held = try_lock(tmp_path / "a.lock")
    assert held is not None
    with held, pytest.raises(Cancellation), locked(tmp_path / "a.lock", lambda: None, lambda: True):
        pytest.fail("the lock has two holders")


HOLDER = """
import sys
from pathlib import Path
from studio_celery.locks import try_lock
lock = try_lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_the_kernel_frees_the_lock_of_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    argv = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert try_lock(path) is None
        holder.kill()
    wait_for("the lock", lambda: try_lock(path))

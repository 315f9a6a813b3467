"""Hosts that are in a bad way: their disk is full, or their `celeryconfig.py` says what would lose experiments."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from pathlib import Path

import pytest
from attempt_faults import Scene, assert_finished
from docker_engine import missing
from studio import wait_for

#: How long a disk stays full: several heartbeats, and longer than the patience.
FULL_SECONDS = 4.0

#: Longer than the time limits below.
LIMIT_SECONDS = 2.0

#: Names of Celery's that would lose, kill, repeat or hold back experiments, if they were heeded.
HOSTILE = """
studio_queue = "q"
broker_url = "memory://"
result_backend = "cache+memory://"
task_acks_late = False
task_acks_on_failure_or_timeout = False
task_reject_on_worker_lost = False
task_always_eager = True
task_eager_propagates = True
task_ignore_result = True
task_store_errors_even_if_ignored = False
task_time_limit = 1
task_soft_time_limit = 1
task_default_rate_limit = "1/h"
task_track_started = True
task_publish_retry = False
task_serializer = "pickle"
result_serializer = "yaml"
accept_content = []
task_create_missing_queues = False
task_annotations = {"*": {"acks_late": False, "time_limit": 1, "soft_time_limit": 1, "rate_limit": "1/h",
                          "ignore_result": True, "max_retries": 0, "reject_on_worker_lost": False}}
worker_prefetch_multiplier = 100
worker_concurrency = 50
worker_max_tasks_per_child = 1
worker_max_memory_per_child = 1
worker_cancel_long_running_tasks_on_connection_loss = True
worker_deduplicate_successful_tasks = True
worker_disable_rate_limits = False
worker_enable_prefetch_count_reduction = False
broker_connection_retry = False
broker_connection_max_retries = 0
result_expires = 1
enable_utc = False
timezone = "Asia/Kathmandu"
"""


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 16 MB."""
    if os.getuid() != 0:
        missing("only root can mount a small disk")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "studio-test", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def until_full() -> Iterator[None]:
    """Write in it until there is no room."""
    try:
        yield
    except OSError as exc:
        if exc.errno != errno.ENOSPC:
            raise


def fill(disk: Path) -> Path:
    """Write until nothing more goes; the file that takes all the room."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, until_full():
        while True:
            file.write(b"x" * 4096)
    return filler


@pytest.mark.parametrize("whose", ["worker", "store"])
def test_a_disk_that_is_full_in_each_phase(whose: str, tmp_path: Path, local_broker_address: str) -> None:
    """Nothing that was printed is lost, as nothing is printed meanwhile; and no end that could not be written."""
    with small_disk(tmp_path / "disk") as disk:
        places = {"worker": (disk / "scene", tmp_path / "store"), "store": (tmp_path / "scene", disk / "store")}
        folder, store = places[whose]
        with Scene(folder, local_broker_address, runtime="process", store=str(store), disk_reserve_bytes=1) as scene:
            scene.worker()
            ids = scene.held()
            filler = fill(disk)
            scene.release(ids.values())
            time.sleep(FULL_SECONDS)  # not a wait: the length of the fault
            filler.unlink()
            outcomes = scene.ends(ids.values())
            assert_finished(outcomes.values())
            scene.leaves_nothing()
            # Of its heartbeats there is one for a moment now and then.
            wait_for("the end of half-written objects", lambda: not glob(f"{store}/**/*#*", recursive=True))  # noqa: PTH207


def test_a_hostile_configuration(tmp_path: Path, local_broker_address: str) -> None:
    """Experiments run longer than its limits, their worker is killed: in its words all of them would be lost."""
    with Scene(tmp_path / "scene", local_broker_address, runtime="process", concurrency=3) as scene:
        (scene.studio.work / "celeryconfig.py").write_text(HOSTILE)
        worker = scene.worker()
        ids = [scene.submit("running") for _ in range(3)]
        for one in ids:
            scene.wait_until_held({"running": one})
            scene.publish(one)
        time.sleep(LIMIT_SECONDS)  # not a wait: longer than any limit
        scene.kill(worker)
        scene.worker()
        more = [scene.submit() for _ in range(4)]
        outcomes = scene.ends([*ids, *more])
        assert_finished(outcomes.values(), "ended")
        scene.leaves_nothing()

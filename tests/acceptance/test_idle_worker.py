"""An idle worker takes little. `benchmarks/attempts.py` measures how much; here is looked for what grew tenfold."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from processes import Studio
from studio import wait_for

#: Percent of a core: ten times what an idle worker may take.
PROCESSOR_MOST = 5.0
#: Wakeups of all its threads a second: ten times what they were.
WAKEUPS_MOST = 400
THREADS_MOST = 60
#: What a worker with fifty attempts may take.
MEMORY_MOST_BYTES = 250e6
WATCHED_SECONDS = 3.0
#: What a start leaves to be done is done by then, on a busy machine, too.
SETTLED_SECONDS = 60.0


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def status(pid: int, task: str, name: str) -> int:
    text = Path(f"/proc/{pid}/task/{task}/status").read_text()
    return int(text.split(f"\n{name}:")[1].split()[0])


def wakeups(pid: int) -> int:
    woken = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            woken += status(pid, task.name, "voluntary_ctxt_switches")
    return woken


def idle(pid: int) -> bool:
    """Whether the worker takes little while it is watched."""
    used, woken = processor_seconds(pid), wakeups(pid)
    time.sleep(WATCHED_SECONDS)  # not a wait: the time that is watched
    processor = 100 * (processor_seconds(pid) - used) / WATCHED_SECONDS
    return processor <= PROCESSOR_MOST and (wakeups(pid) - woken) / WATCHED_SECONDS <= WAKEUPS_MOST


def test_an_idle_worker_takes_little(process_studio: Studio) -> None:
    studio = process_studio
    real = {"HEARTBEAT": "10", "JANITOR": "300", "PATIENCE_FLOOR": "60"}
    studio.environ.update({f"STUDIO_{name}_SECONDS": seconds for name, seconds in real.items()})
    studio.broker()
    pid = studio.worker("q").pid
    wait_for("idleness", lambda: idle(pid), SETTLED_SECONDS)
    assert status(pid, str(pid), "Threads") <= THREADS_MOST
    assert status(pid, str(pid), "VmRSS") * 1024 <= MEMORY_MOST_BYTES

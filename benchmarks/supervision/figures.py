"""What is measured of attempts, and who is: floors are columns of their own."""

from __future__ import annotations

from board import Measure

DOCKER = "worker, docker"
PROCESS = "worker, process"
#: By the name of the runtime.
WORKERS = {"docker": DOCKER, "process": PROCESS}
COMMAND = "floor: docker run"
LIBRARY = "floor: docker-py"
PYTHON = "floor: python3"
WHO = (DOCKER, PROCESS, COMMAND, LIBRARY, PYTHON)

#: Attempts that run at a time.
CROWDS = (0, 1, 10, 50)

START = Measure("message received to State.StartedAt; floor: call to State.StartedAt", "ms")
FIRST_LINE = Measure("message received to the script's first line; floor: call to first line", "ms")
IDLE_LOCAL = Measure("processor of an idle worker, local broker", "% of a core", 2)
IDLE_EMULATOR = Measure("processor of an idle worker, emulator", "% of a core", 2)
WAKES_LOCAL = Measure("wakeups of an idle worker, local broker", "1/s")
WAKES_EMULATOR = Measure("wakeups of an idle worker, emulator", "1/s")
MEMORY = {count: Measure(f"resident memory with {count} attempts running", "MB") for count in CROWDS}
PROCESSOR = Measure(f"processor with {CROWDS[-1]} attempts running", "% of a core", 1)
STORE_CALLS = Measure("store calls of one silent running attempt", "1/min", 1)

MEASURES = (
    START,
    FIRST_LINE,
    IDLE_LOCAL,
    WAKES_LOCAL,
    IDLE_EMULATOR,
    WAKES_EMULATOR,
    *MEMORY.values(),
    PROCESSOR,
    STORE_CALLS,
)

"""What a process and all its descendants use, as Linux tells. What an attempt needs for itself is not among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from brokers.processes import memory_bytes, processor_seconds


def tree(pid: int) -> list[int]:
    """The process and its descendants."""
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def tree_memory_bytes(pid: int) -> int:
    return sum(map(memory_bytes, tree(pid)))


def tree_processor_seconds(pid: int) -> float:
    return sum(map(processor_seconds, tree(pid)))


def wakeups(pid: int) -> int:
    """How often threads of the process went to sleep since their start; those that have ended do not count."""
    return sum(_voluntary(pid))


def _voluntary(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                yield int(line.split()[1])

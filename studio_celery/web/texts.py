"""Values of a record as text for a page. Everything here is pure but for the clock."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from studio_celery.experiment import Status
from studio_celery.units import format_bytes, format_duration

#: Characters of an id that a list shows: enough to be unique among experiments of the same minute.
SHORT_ID = 13

#: What some file system gives a meaning, or a terminal does.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069]')


def ago(at: str | None) -> str:
    """ "3m 20s ago"; empty for no time, and as it stands for what is none."""
    moment = _moment(at)
    if moment is None:
        return at or ""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    return "just now" if seconds < 1 else f"{format_duration(seconds)} ago"


def exact(at: str | None) -> str:
    """ "2026-05-01 12:00:03 UTC"."""
    moment = _moment(at)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else at or ""


def duration(record: Mapping[str, Any]) -> str:
    """How long an experiment or an attempt ran, or runs; empty before it began."""
    begin, end = _moment(record["started_at"]), _moment(record["finished_at"])
    if begin is None:
        return ""
    return format_duration(max(0.0, ((end or datetime.now(UTC)) - begin).total_seconds()))


def command(record: Mapping[str, Any]) -> str:
    """The script with its arguments, as one would type it."""
    return shlex.join([record["script"], *record["args"]])


def short(experiment_id: str) -> str:
    """As much of an id as tells it from the others."""
    return experiment_id[:SHORT_ID]


def terminal(record: Mapping[str, Any]) -> bool:
    """Whether it has ended."""
    return Status(record["status"]).terminal


def resources(record: Mapping[str, Any]) -> str:
    """What an attempt may use: "2 cards, 8 CPUs, 16 GiB memory"."""
    asked = record["resources"]
    parts = [_count(asked["gpus"], "card")] if asked["gpus"] else []
    parts += [_count(asked["cpus"], "CPU")] if asked["cpus"] else []
    parts += [f"{format_bytes(asked['memory_bytes'])} memory"] if asked["memory_bytes"] else []
    parts += [f"{format_bytes(asked['shm_bytes'])} shared memory"] if asked["shm_bytes"] else []
    return ", ".join(parts)


def file_name(key: str) -> str:
    """A name under which any file system can save an artifact."""
    name = _UNSAFE.sub("_", key.rsplit("/", 1)[-1]).strip(". ")
    return name[:200] or "artifact"


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"


def _moment(at: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(at or "")
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


#: What templates call these by.
FILTERS: Mapping[str, Callable[..., Any]] = {
    "ago": ago,
    "exact": exact,
    "duration": duration,
    "command": command,
    "short": short,
    "terminal": terminal,
    "resources": resources,
    "size": format_bytes,
}

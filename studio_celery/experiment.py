"""What is submitted and what becomes of it: frozen data, to and from JSON with a schema number."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import uuid6

from studio_celery.errors import UsageError

#: Version of the JSON that `Experiment.to_dict` writes. A worker defers what is newer than this.
SCHEMA = 1


class Status(StrEnum):
    """The states of an experiment, and of an attempt from `preparing` on."""

    #: Recorded; its message is not confirmed yet. Hidden from lists.
    SUBMITTING = "submitting"
    #: In the queue, or between two attempts.
    WAITING = "waiting"
    #: A worker owns it and makes image, environment and workspace ready.
    PREPARING = "preparing"
    #: The script runs.
    RUNNING = "running"
    #: The script ended with exit code 0.
    FINISHED = "finished"
    #: It ended otherwise; the reason says how.
    FAILED = "failed"
    #: Somebody stopped it.
    STOPPED = "stopped"
    #: It waited longer than its lifetime.
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        """Whether nothing can follow."""
        return self in (Status.FINISHED, Status.FAILED, Status.STOPPED, Status.EXPIRED)


def new_id() -> str:
    """A new experiment id: a UUIDv7, so ids sort by the time of submission."""
    return str(uuid6.uuid7())


def utc_now() -> str:
    """The time now, UTC, ISO 8601 with milliseconds; for people to read, never to be compared between machines."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What an attempt asks for. None means that no limit is set."""

    gpus: int = 0
    cpus: float | None = None
    memory_bytes: int | None = None
    #: Shared memory (/dev/shm) in bytes.
    shm_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.gpus < 0:
            raise UsageError(f"--gpus must be 0 or more, not {self.gpus}.")
        if self.cpus is not None and self.cpus <= 0:
            raise UsageError(f"--cpus must be more than 0, not {self.cpus}.")
        for name, value in (("--memory", self.memory_bytes), ("--shm", self.shm_bytes)):
            if value is not None and value <= 0:
                raise UsageError(f"{name} must be more than 0 bytes, not {value}.")


@dataclass(frozen=True, kw_only=True)
class Capture:
    """A path in the workspace that is kept as an artifact when the attempt ends."""

    path: str
    tag: str


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One script, its arguments, its workspace and what it needs; immutable once submitted."""

    id: str
    queue: str
    #: Path of the script in the workspace, POSIX form.
    script: str
    args: tuple[str, ...] = ()
    #: SHA-256 of the workspace archive, a blob of the store.
    workspace: str
    workspace_bytes: int = 0
    name: str | None = None
    owner: str | None = None
    project: str | None = None
    group: str | None = None
    image: str | None = None
    #: The submitter's Python as "major.minor"; chooses the default image.
    python: str = "3.11"
    #: Text of a requirements file.
    requirements: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    captures: tuple[Capture, ...] = ()
    #: Attempts at most, those included that were lost with their worker.
    max_attempts: int = 3
    #: Attempts after the first that the script's own failure may cost.
    retries: int = 0
    max_duration_seconds: float | None = None
    lifetime_seconds: float | None = None
    submitted_at: str = ""

    def __post_init__(self) -> None:
        check_queue_name(self.queue)
        if not self.script:
            raise UsageError("No script was named: say which file is to be run.")
        if self.max_attempts < 1:
            raise UsageError(f"--max-attempts must be 1 or more, not {self.max_attempts}.")
        if self.retries < 0:
            raise UsageError(f"--retries must be 0 or more, not {self.retries}.")

    def to_dict(self) -> dict[str, Any]:
        """JSON types only; `from_dict` is its inverse."""
        return {"schema": SCHEMA, **dataclasses.asdict(self), "args": list(self.args)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Experiment:
        """Rebuild; a schema newer than ours is a `NewerSchema`."""
        schema = data.get("schema", 0)
        if schema > SCHEMA:
            raise NewerSchema(schema)
        known = {f.name for f in dataclasses.fields(cls)}
        values = {key: value for key, value in data.items() if key in known}
        values["args"] = tuple(values.get("args", ()))
        values["resources"] = Resources(**values.get("resources", {}))
        values["captures"] = tuple(Capture(**capture) for capture in values.get("captures", ()))
        return cls(**values)

    def digest(self) -> str:
        """SHA-256 of the canonical JSON; what the message carries to tell one record from another."""
        return digest_of(self.to_dict())


def digest_of(record: Mapping[str, Any]) -> str:
    """SHA-256 of a stored record's canonical JSON, fields of newer versions included."""
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()


class NewerSchema(UsageError):
    """A record was written by a newer version than this one."""

    def __init__(self, schema: int, what: str = "experiment", known: int = SCHEMA) -> None:
        super().__init__(
            f"The {what} was written with schema {schema}, this version reads up to {known}: upgrade studio-celery."
        )
        self.schema = schema


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try at running an experiment, as the journal tells it."""

    number: int
    #: Number of the entry that made the present owner owner.
    epoch: int
    #: Number of the entry that began the attempt.
    claimed_seq: int
    worker: str
    host: str
    status: Status = Status.PREPARING
    reason: str = ""
    gpus: tuple[str, ...] = ()
    claimed_at: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    exit_code: int | None = None
    #: (epoch, first byte of the log written under that epoch), in order.
    log_epochs: tuple[tuple[int, int], ...] = ()
    #: How the attempt left: None while alive, else `released`, `lost`, `retry` or `ended`.
    over: str | None = None
    release_class: str | None = None
    #: When the claim was stored, on the store's clock, seconds since 1970.
    claimed_stored_at: float = 0.0
    #: The same for the entry that made the present owner owner.
    owned_stored_at: float = 0.0
    #: The same for the entry by which it was released.
    released_stored_at: float = 0.0


#: A comma would end the name in `celery worker -Q a,b`; white space and control characters cannot be typed or seen.
_QUEUE_NAME = re.compile(r"[^\s,\x00-\x1f\x7f]+")

#: Pub/Sub names end at 255 characters; the rest is for prefixes and percent-encoding.
QUEUE_NAME_MAX = 200


def check_queue_name(queue: str) -> str:
    """Return the name, or say why it cannot name a queue."""
    if not queue:
        raise UsageError("The queue name is empty: name the queue that your workers listen to.")
    if not _QUEUE_NAME.fullmatch(queue):
        raise UsageError(f"{queue!r} cannot be a queue name: it must have no comma, white space or control character.")
    try:
        encoded = len("".join(c if c.isascii() else "%XX" * len(c.encode()) for c in queue))
    except UnicodeEncodeError:
        raise UsageError(f"{queue!r} cannot be a queue name: it is not valid text.") from None
    if encoded > QUEUE_NAME_MAX:
        raise UsageError(
            f"The queue name {queue[:20]!r}… is too long for Pub/Sub ({encoded} characters after encoding, "
            f"at most {QUEUE_NAME_MAX}): choose a shorter one."
        )
    return queue

"""The entries of a journal, each one object of the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from studio_celery.experiment import NewerSchema

#: Version of the entries that are written. A worker defers what is newer than this.
ENTRY_SCHEMA = 1


class Kind(StrEnum):
    """What an entry decides."""

    SUBMITTED = "submitted"
    #: A message is in the queue. `again`: one more, because the former may be lost; whatever runs meanwhile runs on.
    QUEUED = "queued"
    CLAIMED = "claimed"
    ADOPTED = "adopted"
    STARTED = "started"
    #: Ownership given up: not the script's fault (a release class), or a retry of the script's own failure.
    RELEASED = "released"
    LOST = "lost"
    STOP_REQUESTED = "stop requested"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    EXPIRED = "expired"
    REMOVED = "removed"


#: Release class of an attempt whose script failed and may be tried again.
RETRY = "retry"

#: Release class of a claim whose answer was lost: nothing was begun.
UNANSWERED = "claim"

#: Release class of what a worker had not started when it was told to stop.
LEAVING = "worker"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One object of a journal."""

    kind: Kind
    #: Who wrote it: a worker id, or a person's login name.
    by: str
    #: The writer's clock, for people.
    at: str
    #: What the kind needs: see the functions below.
    data: Mapping[str, Any] = field(default_factory=dict)
    #: Distinguishes one's own retried create from somebody else's.
    nonce: str = ""
    #: Last-modified time of the object on the store's clock, seconds since 1970; 0 before it was written.
    stored_at: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """What is stored."""
        return {
            "schema": ENTRY_SCHEMA,
            "kind": self.kind.value,
            "by": self.by,
            "at": self.at,
            "nonce": self.nonce,
            **self.data,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], stored_at: float = 0.0) -> Entry:
        """Rebuild from what is stored; `NewerSchema` if a newer version wrote it."""
        schema = data.get("schema", 0)
        if schema > ENTRY_SCHEMA:
            raise NewerSchema(schema, "journal entry", ENTRY_SCHEMA)
        rest = {k: v for k, v in data.items() if k not in ("schema", "kind", "by", "at", "nonce")}
        return cls(
            kind=Kind(data["kind"]),
            by=data["by"],
            at=data["at"],
            nonce=data.get("nonce", ""),
            data=rest,
            stored_at=stored_at,
        )

"""What a reader is shown of an experiment: the one JSON that CLI, page, task result and exception share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from studio_celery.experiment import SCHEMA, Attempt
from studio_celery.journal import State


def to_record(state: State, heartbeats: Mapping[int, str] | None = None) -> dict[str, Any]:
    """The record of `studio show --json`; `heartbeats` gives the last heartbeat's time by attempt number."""
    experiment = state.experiment
    if experiment is None:
        raise ValueError("a journal without `submitted` has no record")
    return {
        "schema": SCHEMA,
        "id": experiment.id,
        "name": experiment.name,
        "owner": experiment.owner,
        "project": experiment.project,
        "group": experiment.group,
        "queue": experiment.queue,
        "status": state.status.value,
        "reason": state.reason,
        "script": experiment.script,
        "args": list(experiment.args),
        "image": experiment.image,
        "resources": dataclasses.asdict(experiment.resources),
        "submitted_at": experiment.submitted_at,
        "started_at": state.started_at,
        "finished_at": state.finished_at,
        "exit_code": state.exit_code,
        "max_attempts": experiment.max_attempts,
        "stop_requested_by": state.stop_requested_by,
        "attempts": [_attempt(a, (heartbeats or {}).get(a.number)) for a in state.attempts],
        "artifacts": [dict(artifact) for artifact in state.artifacts],
        "metrics": {},
    }


def _attempt(attempt: Attempt, heartbeat_at: str | None) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "worker": attempt.worker,
        "host": attempt.host,
        "status": "lost" if attempt.over == "lost" else attempt.status.value,
        "reason": attempt.reason,
        "gpus": list(attempt.gpus),
        "claimed_at": attempt.claimed_at,
        "started_at": attempt.started_at,
        "heartbeat_at": heartbeat_at,
        "finished_at": attempt.finished_at,
        "exit_code": attempt.exit_code,
    }

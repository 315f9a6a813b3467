"""What a person asks for when submitting, before anything was captured."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from studio_celery.experiment import Capture, Resources

#: Name of the task whose messages are experiments.
EXPERIMENT_TASK = "studio.run_experiment"

#: Options of `apply_async` that go to Celery and not to the experiment.
CELERY_OPTIONS = frozenset(
    {"countdown", "eta", "priority", "link", "link_error", "headers", "retry", "retry_policy", "shadow", "connection"}
    | {"producer", "publisher", "add_to_parent", "root_id", "parent_id", "group_index", "chord", "compression"}
    | {"chain", "task_type", "route_name", "replaced_task_nesting"}
    | {"group_id", "reply_to", "stamped_headers", "exchange", "routing_key", "ignore_result", "expires"}
)

_RESOURCES = frozenset(f.name for f in dataclasses.fields(Resources))


@dataclass(frozen=True, kw_only=True)
class Request:
    """One submission; `Client.submit` makes an `Experiment` of it."""

    id: str
    script: str
    args: tuple[str, ...] = ()
    queue: str
    workspace: str | None = None
    name: str | None = None
    project: str | None = None
    group: str | None = None
    image: str | None = None
    requirements: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    captures: tuple[Capture, ...] = ()
    max_attempts: int = 3
    retries: int = 0
    max_duration_seconds: float | None = None
    lifetime_seconds: float | None = None


#: Fields of `Request` that a caller may name.
_FIELDS = frozenset(f.name for f in dataclasses.fields(Request)) - {"id", "script", "args", "resources"}


def split_options(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what describes the experiment, what goes to Celery); `TypeError` for anything else."""
    fields = {name: value for name, value in values.items() if name in _FIELDS | _RESOURCES}
    options = {name: value for name, value in values.items() if name in CELERY_OPTIONS}
    unknown = sorted(values.keys() - fields.keys() - options.keys())
    if unknown:
        raise TypeError(
            f"run_experiment() got an unexpected keyword argument {unknown[0]!r}: it takes fields of Experiment and "
            "Resources, and options of apply_async."
        )
    return fields, options


def make_request(id: str, script: str, args: tuple[str, ...] = (), **fields: Any) -> Request:
    """A `Request`; names of `Resources` may stand beside those of `Request`."""
    resources = Resources(**{name: fields.pop(name) for name in list(fields) if name in _RESOURCES})
    return Request(id=id, script=script, args=args, resources=resources, **fields)


def lifetime_of(expires: float | datetime) -> float:
    """Seconds from now until Celery's `expires`, which here is the lifetime of the experiment."""
    if isinstance(expires, datetime):
        return max(0.0, expires.timestamp() - time.time())
    return float(expires)

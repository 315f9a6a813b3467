"""Records as text for a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from studio_celery.units import format_bytes, format_duration

#: Characters of an id that a list shows: enough to be unique among experiments of the same minute.
SHORT_ID = 13


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """One line for each record."""
    header = ("ID", "NAME", "QUEUE", "STATUS", "SUBMITTED", "DURATION", "SCRIPT", "REASON")
    return aligned([header, *(_row(record) for record in records)])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns; the first row has as many as any."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(record: Mapping[str, Any]) -> tuple[str, ...]:
    command = shlex.join([record["script"], *record["args"]])
    return (
        record["id"],
        record["name"] or "",
        record["queue"],
        record["status"],
        f"{format_duration(_age(record['submitted_at']))} ago",
        duration(record),
        command if len(command) <= 40 else command[:39] + "…",
        record["reason"],
    )


def duration(record: Mapping[str, Any]) -> str:
    """How long it ran, or runs; empty before it began."""
    if not record["started_at"]:
        return ""
    end = _age(record["finished_at"]) if record["finished_at"] else 0.0
    return format_duration(max(0.0, _age(record["started_at"]) - end))


def details(record: Mapping[str, Any]) -> str:
    """Everything about one record."""
    lines = [
        f"{record['id']}  {record['status']}" + (f": {record['reason']}" if record["reason"] else ""),
        f"  command    {shlex.join([record['script'], *record['args']])}",
        f"  queue      {record['queue']}",
        f"  submitted  {record['submitted_at']} by {record['owner']}",
    ]
    lines += [f"  {key:<9}  {record[key]}" for key in ("name", "project", "image") if record[key]]
    lines += [f"  {key:<9}  {record[f'{key}_at']}" for key in ("started", "finished") if record[f"{key}_at"]]
    lines += [_attempt(attempt) for attempt in record["attempts"]]
    lines += [f"  artifact   {a['tag']}: {a['files']} files, {format_bytes(a['bytes'])}" for a in record["artifacts"]]
    return "\n".join(lines)


def _attempt(attempt: Mapping[str, Any]) -> str:
    cards = f", cards {','.join(attempt['gpus'])}" if attempt["gpus"] else ""
    reason = f": {attempt['reason']}" if attempt["reason"] else ""
    return f"  attempt {attempt['number']}  {attempt['status']}{reason} on {attempt['worker']}{cards}"


def _age(at: str) -> float:
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds())

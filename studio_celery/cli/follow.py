"""`--wait` and `logs -f`: the script's output on stdout, byte for byte, and an exit code that tells how it ended."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from studio_celery.client import Client

#: Exit codes beside the script's own.
FAILED_FOR_OUR_REASONS, RAN_TOO_LONG, STOPPED, DETACHED = 123, 124, 125, 130


def follow_to_end(client: Client, experiment_id: str, *, attempt: int | None = None) -> int:
    """Copy the log, from the latest attempt on or the given one, until the experiment has ended.

    Ctrl-C leaves it running. Once it has begun, a store that is away is waited for.
    """
    follower = client.follow(experiment_id, _say, attempt=attempt)
    try:
        for piece in follower.pieces():
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        record = follower.persist(lambda: client.show(experiment_id))
    except KeyboardInterrupt:
        click.echo(f"\nDetached; it runs on. studio logs -f {experiment_id}", err=True)
        return DETACHED
    reason = f": {record['reason']}" if record["reason"] else ""
    click.echo(f"{experiment_id} is {record['status']}{reason}", err=True)
    return exit_code(record)


def _say(text: str) -> None:
    click.echo(text, err=True)


def exit_code(record: Mapping[str, Any]) -> int:
    """What `--wait` exits with for a record that has ended."""
    status, code = record["status"], record["exit_code"]
    if status == "finished":
        return 0
    if status == "stopped":
        return STOPPED
    if status == "expired" or record["reason"].startswith("ran past"):
        return RAN_TOO_LONG
    return code if code else FAILED_FOR_OUR_REASONS

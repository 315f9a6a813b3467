"""`studio-runner --queue Q [options] script.py [args]`: captures, uploads, publishes, prints, quits."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import click

from studio_celery.cli.edge import debug_option, print_json, sentences, setting_options
from studio_celery.cli.follow import follow_to_end
from studio_celery.errors import UsageError
from studio_celery.experiment import Capture, check_queue_name, new_id
from studio_celery.units import format_bytes, parse_bytes, parse_duration


@click.command(context_settings={"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]})
@click.option("-q", "--queue", help="Queue that workers listen to. Default: the setting `queue`.")
@click.option("-n", "--name", help="A name to find it by.")
@click.option("--project", help="Project that it belongs to.")
@click.option("--group", help="Group that it belongs to.")
@click.option("--gpus", type=int, default=0, help="Number of cards.")
@click.option("--cpus", type=float, help="CPUs at most.")
@click.option("--memory", help="Memory at most, as in 8g.")
@click.option("--shm", help="Shared memory (/dev/shm), as in 1g.")
@click.option("--image", help="Container image. Default: the worker's, else python:<your minor>-slim.")
@click.option("--workspace", help="Directory to send. Default: the working directory, or the script's.")
@click.option("--requirements", help="Requirements file. Default: requirements.txt beside the script, or at the top.")
@click.option(
    "-e", "--env", multiple=True, metavar="KEY[=VALUE]", help="Variable for the script; KEY alone takes yours."
)
@click.option(
    "-c", "--capture", multiple=True, metavar="PATH[:TAG]", help="Keep this path of the workspace at the end."
)
@click.option("--max-duration", help="Stop it after this time, as in 5h.")
@click.option("--lifetime", help="Drop it if nobody has begun after this time.")
@click.option("--max-attempts", type=int, default=3, help="Attempts at most when workers are lost. Default 3.")
@click.option(
    "--retries",
    type=int,
    default=0,
    help="Attempts more when the script itself fails, after a pause that doubles. Default 0.",
)
@click.option("--wait", is_flag=True, help="Follow the log; Ctrl-C detaches. The exit code is the script's.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the id.")
@setting_options("store", "broker_url")
@click.option("--store-is-shared", is_flag=True, help="The store directory is mounted on every machine.")
@debug_option
@click.argument("script")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@sentences
def runner(
    script: str, args: tuple[str, ...], wait: bool, as_json: bool, store_is_shared: bool, **options: Any
) -> None:
    """Send SCRIPT with its directory to a queue; a worker runs it. All that follows SCRIPT is the script's."""
    from studio_celery import app
    from studio_celery.submission.request import make_request

    if store_is_shared:
        os.environ["STUDIO_STORE_IS_SHARED"] = "1"
    services = app.services
    request = make_request(new_id(), script, args, **_fields(options, services.settings.queue))
    if services.world.remark:
        click.echo(f"Note: {services.world.remark}", err=True)
    submitted = services.client.submit(request)
    _report(services.client, submitted, as_json)
    if wait:
        sys.stdout.flush()
        raise SystemExit(follow_to_end(services.client, submitted.experiment.id, attempt=1))


def _fields(options: dict[str, Any], default_queue: str) -> dict[str, Any]:
    queue = options["queue"]
    return {
        "queue": check_queue_name(default_queue if queue is None else queue),
        "name": options["name"],
        "project": options["project"],
        "group": options["group"],
        "image": options["image"],
        "workspace": options["workspace"],
        "requirements": options["requirements"],
        "gpus": options["gpus"],
        "cpus": options["cpus"],
        "memory_bytes": parse_bytes(options["memory"]) if options["memory"] else None,
        "shm_bytes": parse_bytes(options["shm"]) if options["shm"] else None,
        "environment": dict(_variable(text) for text in options["env"]),
        "captures": tuple(_capture(text) for text in options["capture"]),
        "max_attempts": options["max_attempts"],
        "retries": options["retries"],
        "max_duration_seconds": parse_duration(options["max_duration"]) if options["max_duration"] else None,
        "lifetime_seconds": parse_duration(options["lifetime"]) if options["lifetime"] else None,
    }


def _variable(text: str) -> tuple[str, str]:
    key, given, value = text.partition("=")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
        raise UsageError(f"--env {text!r}: {key!r} is no name of a variable; write KEY=VALUE or KEY.")
    if not given and key not in os.environ:
        raise UsageError(f"--env {key}: there is no variable {key} here; set it, or write {key}=VALUE.")
    return key, value if given else os.environ[key]


def _capture(text: str) -> Capture:
    path, _, tag = text.partition(":")
    name = tag or path.strip("/").rsplit("/", 1)[-1]
    if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
        raise UsageError(f"--capture {text!r}: write PATH:TAG with a tag of letters, digits, '-', '_' and '.'.")
    return Capture(path=path, tag=name)


def _report(client: Any, submitted: Any, as_json: bool) -> None:
    experiment, archive = submitted.experiment, submitted.archive
    if as_json:
        print_json(client.show(experiment.id))
    else:
        click.echo(experiment.id)
    sent = f"{archive.files} files, {format_bytes(archive.bytes)}" + ("" if submitted.uploaded else ", stored before")
    lines = (
        f"Sent to queue {experiment.queue} ({sent}).",
        f"  studio logs -f {experiment.id}",
        f"  studio show {experiment.id}",
        f"  studio stop {experiment.id}",
    )
    click.echo("\n".join(lines), err=True)

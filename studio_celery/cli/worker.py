"""`studio-start-remote-worker Q`: preflight, then a Celery worker on the queue."""

from __future__ import annotations

import os

import click

from studio_celery.cli.edge import DEBUG, debug_option, sentences, setting_options
from studio_celery.experiment import check_queue_name
from studio_celery.units import parse_duration
from studio_celery.worker.starting import starting


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("queues", nargs=-1)
@click.option("-q", "--queue", "more", multiple=True, help="Queue to listen to; may be given again.")
@click.option("--detach-on-stop", is_flag=True, help="At SIGTERM leave experiments running and exit.")
@click.option("--single-run", is_flag=True, help="Run one experiment, then exit.")
@click.option("--timeout", help="Exit after this time without an experiment, as in 10m.")
@click.option("--hostname", help="Celery node name, if several workers run on this machine.")
@click.option("--loglevel", default="info", show_default=True, help="Celery's log level.")
@setting_options("concurrency", "gpus", "image", "runtime", "uid", "store", "broker_url")
@debug_option
@sentences
def worker(
    queues: tuple[str, ...],
    more: tuple[str, ...],
    detach_on_stop: bool,
    single_run: bool,
    timeout: str | None,
    hostname: str | None,
    loglevel: str,
) -> None:
    """Run experiments from QUEUES on this machine."""
    starting.hear()
    names = [check_queue_name(name) for name in (*queues, *more)]
    if not names:
        raise click.UsageError("Name at least one queue: studio-start-remote-worker QUEUE.")
    from studio_celery import app
    from studio_celery.worker.steps import DETACH_ON_STOP, IDLE_SECONDS, SINGLE_RUN

    if detach_on_stop:
        os.environ[DETACH_ON_STOP] = "1"
    if single_run:
        os.environ[SINGLE_RUN] = "1"
    if timeout:
        os.environ[IDLE_SECONDS] = str(parse_duration(timeout))
    app.services.client.check_broker()
    level = "debug" if os.environ.get(DEBUG) else loglevel
    app.worker_main(
        [
            *("worker", "-Q", ",".join(names), "--loglevel", level, "-n", hostname or f"studio-{os.getpid()}@%h"),
            *("--without-mingle", "--without-gossip", "--without-heartbeat"),
        ]
    )

"""`studio requeue` and `studio rerun`: into the queue again, as the same experiment or as a new one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click

from studio_celery.cli.edge import print_json, sentences, setting_options
from studio_celery.errors import BrokerError, StudioError, UsageError
from studio_celery.submission.requeuer import Requeued

_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
_WORLD = setting_options("store", "broker_url")


@click.command()
@click.argument("references", metavar="ID…", nargs=-1)
@click.option("-a", "--all", "everything", is_flag=True, help="All that the store holds and that has not ended.")
@click.option("-q", "--queue", help="With --all: only what was submitted to this queue.")
@_JSON
@_WORLD
@sentences
def requeue(references: tuple[str, ...], everything: bool, queue: str | None, as_json: bool) -> None:
    """Put experiments into their queue again, after its messages were lost."""
    if everything == bool(references):
        raise UsageError("Say which experiments to queue again: some IDs, or --all.")
    if queue and not everything:
        raise UsageError("--queue goes with --all: an experiment that is named has its queue.")
    done, code = _report(_all(queue) if everything else _named(references), as_json)
    if everything and not done and not code:
        where = f" of queue {queue}" if queue else ""
        click.echo(f"Nothing to queue again: every experiment{where} has ended.", err=True)
    raise SystemExit(code)


def _report(outcomes: Iterable[Requeued], as_json: bool) -> tuple[list[str], int]:
    """Print each as it comes; what was queued again, and the exit code."""
    done: list[str] = []
    code = 0
    try:
        for outcome in outcomes:
            if outcome.problem:
                click.echo(f"Error: {outcome.problem}", err=True)
                code = 1
                continue
            done.append(outcome.id)
            if not as_json:
                click.echo(outcome.id)
    finally:
        if as_json:
            print_json(done)
    return done, code


def _all(queue: str | None) -> Iterator[Requeued]:
    from studio_celery import app

    return app.services.client.requeue_all(queue)


def _named(references: Iterable[str]) -> Iterator[Requeued]:
    from studio_celery import app

    for reference in references:
        try:
            yield Requeued(app.services.client.requeue(reference))
        except BrokerError:
            raise
        except StudioError as exc:
            yield Requeued(reference, str(exc))


@click.command()
@click.argument("reference", metavar="ID")
@_JSON
@_WORLD
@sentences
def rerun(reference: str, as_json: bool) -> None:
    """Submit an experiment once more, as a new one with the same workspace."""
    from studio_celery import app

    client = app.services.client
    experiment = client.rerun(reference)
    if as_json:
        print_json(client.show(experiment.id))
    else:
        click.echo(experiment.id)
    click.echo(f"Sent to queue {experiment.queue}.\n  studio logs -f {experiment.id}", err=True)

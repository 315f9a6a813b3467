"""`studio queues`: what waits, and who listens."""

from __future__ import annotations

import click

from studio_celery.cli.edge import print_json, sentences, setting_options


@click.group()
def queues() -> None:
    """See what waits in the queues, and who listens."""


@queues.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Also what Celery's workers talk over among themselves.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@setting_options("broker_url")
@sentences
def ls(everything: bool, as_json: bool) -> None:
    """List queues: messages that wait, messages with consumers, age of the oldest, consumers."""
    from studio_celery import settings as settings_module
    from studio_celery.cli.tables import aligned
    from studio_celery.queues import list_queues
    from studio_celery.units import format_duration

    found = list_queues(settings_module.load(), everything=everything)
    if as_json:
        print_json([each.to_dict() for each in found])
    elif found:
        rows = [
            (
                each.queue,
                str(each.waiting),
                "" if each.leased is None else str(each.leased),
                "" if each.oldest_age_seconds is None else format_duration(each.oldest_age_seconds),
                "" if each.consumers is None else str(each.consumers),
            )
            for each in found
        ]
        click.echo(aligned([("QUEUE", "WAITING", "LEASED", "OLDEST", "CONSUMERS"), *rows]))
    else:
        click.echo("No queues yet. studio-start-remote-worker QUEUE makes one.", err=True)

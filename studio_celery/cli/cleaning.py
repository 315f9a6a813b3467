"""`studio rm` and `studio gc`: what is no longer wanted in the store."""

from __future__ import annotations

import click

from studio_celery.cli.edge import print_json, sentences, setting_options
from studio_celery.errors import UsageError

_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
_WORLD = setting_options("store", "broker_url")


@click.command()
@click.argument("references", metavar="ID…", nargs=-1, required=True)
@_JSON
@_WORLD
@sentences
def rm(references: tuple[str, ...], as_json: bool) -> None:
    """Remove experiments that have ended, with their logs and artifacts."""
    from studio_celery import app

    removed, code = [], 0
    for reference in references:
        try:
            removed.append(app.services.client.remove(reference))
        except UsageError as exc:
            click.echo(f"Error: {exc}", err=True)
            code = 2
            continue
        if not as_json:
            click.echo(f"{removed[-1]} removed")
    if as_json:
        print_json(removed)
    raise SystemExit(code)


@click.command()
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be removed.")
@_JSON
@_WORLD
@sentences
def gc(dry_run: bool, as_json: bool) -> None:
    """Remove workspaces that no experiment refers to and that are older than a day."""
    from studio_celery import app
    from studio_celery.units import format_bytes

    done = app.services.client.collect(dry_run=dry_run)
    if as_json:
        print_json(done.to_dict())
        return
    verb = "would be removed" if dry_run else "removed"
    click.echo(f"{done.blobs} workspaces {verb} ({format_bytes(done.bytes)})")
    click.echo(f"{done.kept_blobs} kept ({format_bytes(done.kept_bytes)})")
    if done.experiments or done.temporary_files:
        click.echo(f"{done.experiments} old journals and {done.temporary_files} temporary files {verb}")

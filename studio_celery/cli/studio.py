"""`studio …`: look at experiments, stop them, and run the parts of a studio on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from studio_celery.cli.broker import broker
from studio_celery.cli.cleaning import gc, rm
from studio_celery.cli.edge import debug_option, print_json, sentences, setting_options
from studio_celery.cli.follow import follow_to_end
from studio_celery.cli.queues import queues
from studio_celery.cli.requeueing import requeue, rerun
from studio_celery.cli.tables import table
from studio_celery.errors import UsageError
from studio_celery.experiment import Status

_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
_WORLD = setting_options("store", "broker_url")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="studio-celery")
@debug_option
def studio() -> None:
    """Experiments that run elsewhere: see them, follow them, stop them."""


@studio.command()
@click.option("-n", "--limit", type=int, default=50, show_default=True, help="Rows at most.")
@click.option("-s", "--status", multiple=True, type=click.Choice([s.value for s in Status]), help="Only these states.")
@_JSON
@_WORLD
@sentences
def ls(limit: int, status: tuple[str, ...], as_json: bool) -> None:
    """List experiments, the latest first."""
    records = _client().list(limit, frozenset(map(Status, status)))
    if as_json:
        print_json(records)
    elif records:
        click.echo(table(records))
    else:
        click.echo("No experiments yet. studio-runner --queue QUEUE script.py submits one.", err=True)


@studio.command()
@click.argument("reference", metavar="ID")
@_JSON
@_WORLD
@sentences
def show(reference: str, as_json: bool) -> None:
    """Show one experiment."""
    from studio_celery.cli.tables import details

    record = _client().show(reference)
    if as_json:
        print_json(record)
    else:
        click.echo(details(record))


@studio.command()
@click.argument("reference", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until it has ended, over further attempts; Ctrl-C detaches.")
@click.option("-a", "--attempt", type=int, help="This attempt's output. Default: the latest.")
@_WORLD
@sentences
def logs(reference: str, follow: bool, attempt: int | None) -> None:
    """Print what the script printed, byte for byte."""
    client = _client()
    experiment_id = client.resolve(reference)
    if follow:
        raise SystemExit(follow_to_end(client, experiment_id, attempt=attempt))
    for piece in client.output(experiment_id, attempt):
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


@studio.command()
@click.argument("references", metavar="ID…", nargs=-1, required=True)
@_JSON
@_WORLD
@sentences
def stop(references: tuple[str, ...], as_json: bool) -> None:
    """Stop experiments, waiting or running."""
    client, records, code = _client(), [], 0
    for reference in references:
        try:
            record = client.stop(reference)
        except UsageError as exc:
            click.echo(f"Error: {exc}", err=True)
            code = 2
            continue
        records.append(record)
        if not as_json:
            what = record["reason"] if record["status"] == "stopped" else "stop requested; its worker ends it"
            click.echo(f"{record['id']} {what}")
    if as_json:
        print_json(records)
    raise SystemExit(code)


@studio.command()
@click.argument("reference", metavar="ID")
@_JSON
@_WORLD
@sentences
def events(reference: str, as_json: bool) -> None:
    """Show who decided what, and when."""
    entries = _client().events(reference)
    if as_json:
        print_json(entries)
    for entry in entries if not as_json else []:
        click.echo(f"{entry['at']}  {entry['kind']:<14}  {entry['by']}  {entry.get('reason', '')}".rstrip())


@studio.command()
@click.argument("reference", metavar="ID")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Download into this directory.")
@_JSON
@_WORLD
@sentences
def artifacts(reference: str, output: Path | None, as_json: bool) -> None:
    """List what an experiment left, or download it."""
    from studio_celery.cli.download import download

    client = _client()
    files = client.artifacts(reference)
    if as_json:
        print_json([{"path": item.key, "bytes": item.size} for item in files])
    for item in files:
        if output is not None:
            download(client.artifact(reference, item.key), output, item.key)
        if not as_json:
            click.echo(f"{item.size:>12}  {item.key}")


@studio.command()
@_JSON
@_WORLD
@sentences
def workers(as_json: bool) -> None:
    """List workers and what they run."""
    found = [dict(worker) for worker in _client().store.workers()]
    if as_json:
        print_json(found)
    for worker in found if not as_json else []:
        idle = f"takes nothing: {worker['takes_nothing']}" if worker.get("takes_nothing") else "idle"
        running = ", ".join(worker["running"]) or idle
        click.echo(f"{worker['id']}  {','.join(worker['queues'])}  {len(worker['cards'])} cards  {running}")


@studio.command()
@click.option("--host", help="Address to listen on. [env STUDIO_UI_HOST]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 for a free one. [env STUDIO_UI_PORT]")
@_WORLD
@sentences
def ui(host: str | None, port: int | None) -> None:
    """Serve the web page."""
    from studio_celery.local import run_ui

    run_ui(host, port)


@studio.command()
@click.option("-q", "--queue", "queues", multiple=True, help="Queue of the worker. Default: the setting `queue`.")
@setting_options("concurrency", "gpus", "image", "runtime", "uid")
@sentences
def up(queues: tuple[str, ...]) -> None:
    """Run broker, one worker and the web page on this machine, until Ctrl-C."""
    from studio_celery.local import run_up

    raise SystemExit(run_up(queues))


studio.add_command(broker)
studio.add_command(queues)
studio.add_command(requeue)
studio.add_command(rerun)
studio.add_command(rm)
studio.add_command(gc)


def _client():  # type: ignore[no-untyped-def]
    from studio_celery import app

    return app.services.client

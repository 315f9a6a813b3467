"""`studio broker`: run the local broker, and say who may use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from studio_celery.cli.edge import print_json, sentences
from studio_celery.errors import BrokerError

if TYPE_CHECKING:
    from transports.local import TokenFile

_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
_DATA = click.option(
    "--data", type=click.Path(path_type=Path), help="The broker's directory. Default: STUDIO_HOME/broker."
)
_PORT = click.IntRange(0, 65535)
_FILE = click.Path(path_type=Path)


@click.group(invoke_without_command=True)
@click.option(
    "--host", help="Address to listen on; needs TLS and tokens unless it is loopback. [env STUDIO_BROKER_HOST]"
)
@click.option("--port", type=_PORT, help="Port; 0 for a free one. [env STUDIO_BROKER_PORT]")
@click.option("--data", type=_FILE, help="Directory of its database. Default: STUDIO_HOME/broker.")
@click.option("--tls-cert", type=_FILE, help="Certificate, a PEM file. [env STUDIO_BROKER_TLS_CERT]")
@click.option("--tls-key", type=_FILE, help="Its key, a PEM file. [env STUDIO_BROKER_TLS_KEY]")
@click.option(
    "--require-tokens",
    is_flag=True,
    default=None,
    help="Ask for tokens on loopback, too. [env STUDIO_BROKER_REQUIRE_TOKENS]",
)
@click.option(
    "--grace-seconds",
    type=click.FloatRange(0, 600),
    help="How long messages stay leased at least that were so when it ended. [env STUDIO_BROKER_GRACE_SECONDS]",
)
@click.option(
    "--silence-seconds",
    type=click.FloatRange(1, 3600),
    help="After how long a client that does not answer has gone. [env STUDIO_BROKER_SILENCE_SECONDS]",
)
@click.option("--metrics-port", type=_PORT, help="Port of a page for Prometheus. [env STUDIO_BROKER_METRICS_PORT]")
@click.pass_context
@sentences
def broker(context: click.Context, data: Path | None, **flags: Any) -> None:
    """Run the local broker: Pub/Sub on this machine, durable."""
    from studio_celery.local import run_broker

    context.obj = data
    if context.invoked_subcommand is None:
        run_broker(data, {f"broker_{name}": value for name, value in flags.items()})


@broker.group()
def token() -> None:
    """Say who may use the broker. Run these as the user that runs it."""


@token.command()
@click.option("--role", type=click.Choice(["publisher", "subscriber", "viewer", "editor"]), required=True)
@click.option("-q", "--queue", "queues", multiple=True, help="Only for this queue; '*' is any characters. Repeatable.")
@click.option(
    "--resource", "resources", multiple=True, help="Only for topics and subscriptions with this id; as --queue."
)
@click.option("--name", default="", help="What the broker's log calls it. Default: role and id.")
@_DATA
@_JSON
@sentences
def create(
    role: str, queues: tuple[str, ...], resources: tuple[str, ...], name: str, data: Path | None, as_json: bool
) -> None:
    """Make a token; its secret is printed once and kept nowhere."""
    from studio_celery.queues import resources_of
    from transports.local import Role

    patterns = [*resources, *(pattern for queue in queues for pattern in resources_of(queue))]
    with _told():
        made, secret = _tokens(data).create(Role(role), patterns, name)
    if as_json:
        print_json({**made.to_public(), "secret": secret})
        return
    click.echo(secret)
    click.echo(f"Token {made.name}: shown this once. Its user sets PUBSUB_TOKEN or PUBSUB_TOKEN_FILE.", err=True)


@token.command("list")
@_DATA
@_JSON
@sentences
def list_(data: Path | None, as_json: bool) -> None:
    """List tokens, without their secrets."""
    from studio_celery.cli.tables import aligned

    with _told():
        found = [each.to_public() for each in _tokens(data).tokens()]
    if as_json:
        print_json(found)
    elif found:
        rows = [(each["id"], each["name"], each["role"], _scope(each), each["created_at"]) for each in found]
        click.echo(aligned([("ID", "NAME", "ROLE", "FOR", "CREATED"), *rows]))
    else:
        click.echo("No tokens. studio broker token create --role ROLE makes one.", err=True)


@token.command()
@click.argument("references", metavar="ID…", nargs=-1, required=True)
@_DATA
@_JSON
@sentences
def revoke(references: tuple[str, ...], data: Path | None, as_json: bool) -> None:
    """Take tokens back, by id or name; a running broker refuses them at once."""
    revoked = []
    with _told():
        for reference in references:
            revoked.append(_tokens(data).revoke(reference).to_public())
            if not as_json:
                click.echo(f"{revoked[-1]['id']} {revoked[-1]['name']} revoked")
    if as_json:
        print_json(revoked)


def _tokens(data: Path | None) -> TokenFile:
    from studio_celery import settings as settings_module
    from studio_celery.local import broker_data
    from transports.local import TokenFile

    settings = settings_module.load()
    data = data or click.get_current_context().obj
    if data is None:
        settings_module.make_home(settings.home)
    return TokenFile(data or broker_data(settings))


def _scope(token: dict[str, Any]) -> str:
    return ",".join(token["resources"]) or "everything"


@contextmanager
def _told() -> Iterator[None]:
    """Have the broker's own errors told as ours."""
    from transports.local import TokenError

    try:
        yield
    except TokenError as exc:
        raise BrokerError(str(exc)) from exc

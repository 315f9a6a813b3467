"""``python -m transports.local token``: say who may use a broker, without a studio."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from transports.local.access.roles import Role
from transports.local.access.tokens import TokenFile


def add_to(commands: Any) -> None:
    """Add ``token`` and what can be done with it to a parser's commands; each sets ``run``, called with the options."""
    parser = commands.add_parser("token", help="say who may use the broker")
    verbs = parser.add_subparsers(metavar="create|list|revoke", required=True)
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--data", type=Path, required=True, help="the broker's directory")
    create = verbs.add_parser("create", parents=[data], help="make a token; its secret is printed once")
    create.add_argument("--role", choices=[each.value for each in Role], required=True)
    create.add_argument(
        "--resource",
        dest="resources",
        action="append",
        default=[],
        help="only for topics and subscriptions with this id; '*' is any characters; repeatable",
    )
    create.add_argument("--name", default="", help="what the broker's log calls it (default: role and id)")
    create.set_defaults(run=_create)
    verbs.add_parser("list", parents=[data], help="list tokens, without their secrets").set_defaults(run=_list)
    revoke = verbs.add_parser("revoke", parents=[data], help="take tokens back; a running broker refuses them at once")
    revoke.add_argument("references", metavar="ID", nargs="+", help="id or name of a token")
    revoke.set_defaults(run=_revoke)


def _create(options: argparse.Namespace) -> None:
    made, secret = TokenFile(options.data).create(Role(options.role), options.resources, options.name)
    print(secret)
    print(f"Token {made.name}: shown this once. Its user sets PUBSUB_TOKEN or PUBSUB_TOKEN_FILE.", file=sys.stderr)


def _list(options: argparse.Namespace) -> None:
    for each in TokenFile(options.data).tokens():
        print(each.id, each.name, each.role.value, ",".join(each.resources) or "everything", each.created_at, sep="\t")


def _revoke(options: argparse.Namespace) -> None:
    for reference in options.references:
        revoked = TokenFile(options.data).revoke(reference)
        print(f"{revoked.id} {revoked.name} revoked")

"""Broker URLs: ``pubsub://[HOST:PORT/]PROJECT?prefix=&endpoint=&credentials=&ca=``. Pure.

HOST:PORT is a server that is not Google's (an emulator, the local broker); it beats ``PUBSUB_EMULATOR_HOST``. ``ca`` is
the path of the certificate that it is trusted by, and means TLS. ``endpoint`` is Google's, ``HOST[:PORT]``;
``credentials`` is the path of a key file. What the URL leaves open may stand in transport options of the same names.

A server may want a token. It is never in the URL, but in the file that the option ``token_file`` names, else in
``PUBSUB_TOKEN``, else in the file that ``PUBSUB_TOKEN_FILE`` names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from transports.errors import BadURL

#: Put before the name of every topic and subscription, so that several applications can share a project.
DEFAULT_PREFIX = "celery-"
#: The TLS endpoint that serves all regions.
GLOBAL_ENDPOINT = "pubsub.googleapis.com:443"

_PARAMETERS = ("prefix", "endpoint", "credentials", "ca")
_SERVER = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\[\]:/@]+):\d{1,5}")
_PREFIX = re.compile(r"(?:[A-Za-z][A-Za-z0-9\-_.+%]*)?")
_LOOPBACK = re.compile(r"(localhost|127\.[0-9.]+|\[::1\]):\d+")
_FORMS = "write pubsub://PROJECT, or pubsub://HOST:PORT/PROJECT for a server without TLS"


@dataclass(frozen=True)
class Address:
    """Where a broker is: equal addresses share one client and one keeper of leases."""

    #: None: the project of the credentials.
    project: str | None = None
    #: HOST:PORT of a server that is not Google's; None: Google.
    server: str | None = None
    endpoint: str = GLOBAL_ENDPOINT
    #: Path of a key file; None: Application Default Credentials.
    credentials: str | None = None
    prefix: str = DEFAULT_PREFIX
    #: Path of the certificate by which a server is trusted; None: it has no TLS.
    ca: str | None = None
    #: The secret that a server asks for, or the path of a file with it; None: none.
    token: str | None = field(default=None, repr=False)
    token_file: str | None = None

    def __str__(self) -> str:
        return self.server or self.endpoint


def parse(url: str, *, options: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Address:
    """Return the address that a URL, the transport options and the environment name, in this order of precedence."""
    place, _, query = url.partition("://")[2].partition("?")
    given = _parameters(query)
    server, project = _split(place)
    if server and {"endpoint", "credentials"} & set(given):
        raise BadURL(f"{url} names a server and also Google's endpoint= or credentials=: leave one of them out")
    named = {name: given.get(name, (options or {}).get(name)) for name in _PARAMETERS}
    environ = environ or {}
    if not server and not named["endpoint"]:
        server = _checked_server(environ.get("PUBSUB_EMULATOR_HOST", ""), "PUBSUB_EMULATOR_HOST")
    if server and not project:
        project = environ.get("GOOGLE_CLOUD_PROJECT") or environ.get("PUBSUB_PROJECT_ID") or ""
    if server and not project:
        raise BadURL(f"{url} names no project, and there are no credentials to take one from: {_FORMS}")
    if "ca" in given and not server:
        raise BadURL(f"{url} has ca= and names no server: write pubsub://HOST:PORT/PROJECT?ca=FILE")
    endpoint = named["endpoint"] or GLOBAL_ENDPOINT
    ca = named["ca"] or None
    return Address(
        project=project or None,
        server=server or None,
        endpoint=endpoint if ":" in endpoint else f"{endpoint}:443",
        credentials=None if server else named["credentials"] or None,
        prefix=_checked_prefix(DEFAULT_PREFIX if named["prefix"] is None else named["prefix"]),
        **(_protection(server, ca, options or {}, environ) if server else {}),
    )


def _protection(
    server: str, ca: str | None, options: Mapping[str, Any], environ: Mapping[str, str]
) -> dict[str, str | None]:
    """Return how a server that is not Google's is trusted, and what it is shown."""
    token_file = options.get("token_file")
    token = None if token_file else environ.get("PUBSUB_TOKEN")
    if not token:
        token_file = token_file or environ.get("PUBSUB_TOKEN_FILE")
    if (token or token_file) and not ca and not _LOOPBACK.fullmatch(server):
        raise BadURL(f"the token would go to {server} unencrypted: add ?ca=FILE, its certificate, to the broker URL")
    return {"ca": ca, "token": token or None, "token_file": token_file or None}


def _parameters(query: str) -> dict[str, str]:
    given = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(set(given) - set(_PARAMETERS)):
        raise BadURL(f"unknown parameter {unknown[0]}= in the broker URL: known are {', '.join(_PARAMETERS)}")
    return given


def _split(place: str) -> tuple[str, str]:
    """Return server and project of what stands between ``://`` and ``?``; either may be empty."""
    first, slash, rest = place.strip("/").partition("/")
    if place.startswith("/") or not slash:
        server, project = ("", first) if not _SERVER.fullmatch(first) else (first, "")
        project = f"{project}/{rest}" if rest else project
    else:
        server, project = _checked_server(first, "the broker URL"), rest
    project = unquote(project)
    if re.search(r"[/\s@]", project):
        raise BadURL(f"{project!r} is not a project id: {_FORMS}")
    return server, project


def _checked_server(server: str, where: str) -> str:
    if server and not _SERVER.fullmatch(server):
        raise BadURL(f"{server!r} in {where} is not HOST:PORT: {_FORMS}; TLS endpoints go into endpoint=")
    return server


def _checked_prefix(prefix: str) -> str:
    if not _PREFIX.fullmatch(prefix):
        raise BadURL(f"prefix={prefix!r}: a prefix begins with a letter and has letters, digits and any of - _ . + %")
    return prefix

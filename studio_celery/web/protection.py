"""What keeps other pages in the same browser out: the host check and the headers of every answer."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Flask, Response, abort, request

#: Names that a browser reaches this page by. A foreign name that was made to point here (DNS rebinding) is refused.
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def protect(app: Flask) -> None:
    """Check each request, and complete each answer."""
    app.before_request(_check_host)
    app.after_request(_add_headers)


def _check_host() -> None:
    if _host_name(request.environ.get("HTTP_HOST", "")) not in LOOPBACK_NAMES:
        abort(400, "This page answers to http://localhost and http://127.0.0.1 only: open it under one of these names.")


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _add_headers(response: Response) -> Response:
    response.headers.update(HEADERS)
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
    return response

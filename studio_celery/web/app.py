"""The Flask application: configuration, and the parts put together."""

from __future__ import annotations

import secrets

from flask import Flask
from flask_wtf import CSRFProtect

from studio_celery.client import Client
from studio_celery.settings import Settings
from studio_celery.web import failures, protection, texts
from studio_celery.web.views import Pages

#: A form here has one token and nothing else, bytes.
FORM_LIMIT = 64 * 1024


def create_app(client: Client, settings: Settings) -> Flask:
    """The page over one client; a WSGI application."""
    app = Flask("studio_celery.web")
    app.config.update(
        # The key lives as long as the process: a session holds nothing but the CSRF token.
        SECRET_KEY=secrets.token_bytes(32),
        # Cookies do not know ports: two pages on one machine must not share a name.
        SESSION_COOKIE_NAME=f"studio_{settings.ui_port or secrets.token_hex(4)}",
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_HTTPONLY=True,
        WTF_CSRF_TIME_LIMIT=None,
        MAX_CONTENT_LENGTH=FORM_LIMIT,
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters.update(texts.FILTERS)
    app.jinja_env.globals.update(store_url=client.store.url, queue=settings.queue)
    protection.protect(app)
    CSRFProtect(app)
    failures.register(app)
    Pages(client).register(app)
    return app

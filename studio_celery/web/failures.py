"""Errors as pages: a status code, and the sentence that says what to do."""

from __future__ import annotations

import logging

from flask import Flask
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError
from werkzeug.exceptions import HTTPException

from studio_celery.errors import (
    BrokerError,
    StoreError,
    StoreRefusal,
    StudioError,
    UnknownExperiment,
    Unreadable,
    UsageError,
)
from studio_celery.web.rendering import page

logger = logging.getLogger(__name__)

#: The first that fits an error decides.
_CODES: tuple[tuple[type[StudioError], int], ...] = (
    (UnknownExperiment, 404),
    (UsageError, 400),
    (Unreadable, 500),
    (StoreRefusal, 500),
    (StoreError, 503),
    (BrokerError, 503),
    (StudioError, 500),
)

_TITLES = {
    400: "That cannot be done",
    404: "Not found",
    405: "That cannot be done",
    409: "Too late",
    503: "No connection",
}


def register(app: Flask) -> None:
    """Make every error of a view a page."""
    app.register_error_handler(CSRFError, _csrf)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(StudioError, _studio)
    app.register_error_handler(Exception, _unexpected)


def _csrf(error: CSRFError) -> ResponseReturnValue:
    return _page(400, "This form did not come from the page as it is now: go back, reload the page and try again.")


def _http(error: HTTPException) -> ResponseReturnValue:
    if error.code is None or error.code < 400:
        return error
    return _page(error.code, error.description or error.name)


def _studio(error: StudioError) -> ResponseReturnValue:
    code = next(code for kind, code in _CODES if isinstance(error, kind))
    if code >= 500:
        logger.error("%s", error)
    return _page(code, str(error))


def _unexpected(error: Exception) -> ResponseReturnValue:
    logger.error("A page failed.", exc_info=error)
    return _page(500, "Something failed that should not have: the log of `studio ui` has the traceback.")


def _page(code: int, sentence: str) -> ResponseReturnValue:
    return page("error.html", code=code, title=_TITLES.get(code, "Something went wrong"), sentence=sentence), code

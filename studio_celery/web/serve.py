"""Serving the page to this machine's browsers until SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import waitress

from studio_celery.client import Client
from studio_celery.errors import SettingsError, StudioError
from studio_celery.settings import Settings
from studio_celery.web.app import create_app

#: Where it may listen, and the address that stands for the name.
ADDRESSES = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}

#: Answers at a time: several open pages, each asking once a second, and a few downloads.
THREADS = 16


def serve(client: Client, settings: Settings, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then return; `ready` gets the URL once connections are accepted."""
    address = ADDRESSES.get(settings.ui_host)
    if address is None:
        raise SettingsError(
            f"The web page cannot listen on {settings.ui_host}: it has no authentication yet, so it listens on "
            "127.0.0.1 only. From another machine, use `ssh -L`."
        )
    # Its warning about requests that wait is for public servers; here it means a busy machine.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    with _signals_end():
        server = _listen(client, settings, address)
        try:
            host = f"[{address}]" if ":" in address else address
            ready(f"http://{host}:{server.effective_port}")
            server.run()
        finally:
            server.close()


def _listen(client: Client, settings: Settings, address: str) -> Any:
    app = create_app(client, settings)
    try:
        return waitress.create_server(app, host=address, port=settings.ui_port, threads=THREADS, ident="studio")
    except (OSError, ValueError, OverflowError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise StudioError(
            f"The web page cannot listen on {address}:{settings.ui_port}: {reason}. "
            "Choose another with --port or STUDIO_UI_PORT; 0 takes a free one."
        ) from exc


@contextmanager
def _signals_end() -> Iterator[None]:
    """SIGTERM and SIGINT end the server's loop, which returns; the former handlers are put back."""
    before = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)

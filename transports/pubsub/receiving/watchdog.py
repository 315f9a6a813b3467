"""Looks now and then whether the server still answers while messages are waited for.

A connection can die without a word: a laptop that slept, a firewall that forgot, a proxy that hangs. Its streams would
then stay open, and silent, for ever. So while streams are open the server is asked something; if it does not answer,
the streams are cut off, and their readers open new ones or say what is wrong. Streams are also opened anew at a certain
age, should the server have forgotten one of them. At its first look it also has swept what killed processes left.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from transports.errors import ServerUnavailable, TransportError
from transports.pubsub.options import Options
from transports.pubsub.server.client import Client
from transports.pubsub.server.stream import Stream

logger = logging.getLogger(__name__)


class Watchdog:
    """One thread per process and server, from the first reader to `close`."""

    def __init__(self, client: Client, options: Options, *, sweep: Callable[[], object]) -> None:
        self._client = client
        self._options = options
        self._sweep: Callable[[], object] | None = sweep
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look, if that was not begun before."""
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="pubsub-watchdog", daemon=True)
                self._thread.start()

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self._options.watchdog_seconds):
            try:
                self._look()
            except Exception:
                logger.exception("the watchdog of Pub/Sub streams met an error of its own, and goes on")

    def _look(self) -> None:
        streams = self._client.calls.streams
        if not streams:
            return
        self._check(streams)
        sweep, self._sweep = self._sweep, None
        if sweep is not None:
            sweep()

    def _check(self, streams: list[Stream]) -> None:
        now = time.monotonic()
        for stream in streams:
            if stream.opened_at is not None and now - stream.opened_at > self._options.stream_lifetime_seconds:
                stream.finish()
        try:
            self._client.probe()
        except ServerUnavailable as exc:
            logger.warning("no answer while waiting for messages, connecting anew: %s", exc)
            self._client.close()
        except TransportError as exc:
            # Streams meet the same error when they are opened, and raise it where messages are consumed.
            logger.warning("the server does not accept this connection any more: %s", exc)
            for stream in streams:
                stream.cancel()

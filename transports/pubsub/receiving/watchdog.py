"""Looks now and then whether the server still answers while messages are waited for.

A connection can die without a word: a laptop that slept, a firewall that forgot, a proxy that hangs. Its streams would
then stay open, and silent, for ever. So while streams are open the server is asked something, and also as soon as any
call got no answer in time; if there is none again, the connection is given up, and readers, publishers and the keeper
of leases go on with a new one. Streams are also opened anew at a certain age, should the server have forgotten one of
them. At its first look it also has swept what killed processes left.
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
        self._closed = False
        self._suspected = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look, if that was not begun before."""
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="pubsub-watchdog", daemon=True)
                self._thread.start()

    def suspect(self) -> None:
        """Have it look now: the connection seems to be dead."""
        self._suspected.set()
        self.start()

    def close(self) -> None:
        self._closed = True
        self._suspected.set()

    def _run(self) -> None:
        while True:
            suspected = self._suspected.wait(self._options.watchdog_seconds)
            if self._closed:
                return
            self._suspected.clear()
            try:
                self._look(suspected=suspected)
            except Exception:
                logger.exception("the watchdog of Pub/Sub connections met an error of its own, and goes on")

    def _look(self, *, suspected: bool) -> None:
        streams = self._client.calls.streams
        if not streams and not suspected:
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
            logger.warning("no answer, connecting anew: %s", exc)
            self._client.close()
        except TransportError as exc:
            # Streams meet the same error when they are opened, and raise it where messages are consumed.
            logger.warning("the server does not accept this connection any more: %s", exc)
            for stream in streams:
                stream.cancel()

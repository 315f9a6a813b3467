"""How a worker process ends: what signals mean, and that it is soon gone whatever it waits for.

- SIGTERM: takes nothing more, finishes what runs.
- a second SIGTERM, SIGINT (Ctrl-C), SIGQUIT: leaves experiments running, gives their messages back, exits 0.
- SIGHUP: leaves them running, too, and begins anew in the same process; if its terminal was closed, it exits.

Who leaves waits for nothing longer than a limit: a store or an engine that does not answer loses nothing then, because
leases run out and the next worker adopts what runs.

Signals are read from a pipe that the kernel's handler writes to, by a thread: so they are heard while the main thread
is inside a call, and nothing is done between two instructions of somebody who holds a lock.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from celery import platforms

logger = logging.getLogger(__name__)

#: What it listens to.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


class Departure:
    """Of one worker process; made in its main thread."""

    def __init__(
        self,
        *,
        detach: Callable[[], list[str]],
        stop_taking: Callable[[], None],
        limit_seconds: float,
        detach_on_stop: bool,
    ) -> None:
        """`detach` leaves all that runs and names it; `stop_taking` has the worker shut down when nothing runs."""
        self._detach = detach
        self._stop_taking = stop_taking
        self._limit_seconds = limit_seconds
        self._detach_on_stop = detach_on_stop
        self._asked = False
        self._leaving = False
        self._begins_anew = False

    def listen(self) -> None:
        """Hear signals from now on, until the process ends."""
        heard, noted = os.pipe()
        os.set_blocking(noted, False)
        for number in SIGNALS:
            signal.signal(number, _hear)
        signal.set_wakeup_fd(noted, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(heard,), name="signals", daemon=True).start()

    def _listen(self, heard: int) -> None:
        """Outermost loop of a thread."""
        while True:
            for number in os.read(heard, 64):
                try:
                    self._obey(number)
                except Exception:
                    logger.exception("What signal %d asks for cannot be done in order.", number)

    def _obey(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._leave(begin_anew=not _has_terminal())
        elif number == signal.SIGTERM and not (self._asked or self._detach_on_stop):
            self._asked = True
            _say("finishing what runs; again to leave it running without this worker")
        elif number in SIGNALS:
            self._leave()
        else:
            return
        self._stop_taking()

    def _leave(self, *, begin_anew: bool = False) -> None:
        if self._leaving:
            return
        self._leaving, self._begins_anew = True, begin_anew
        threading.Thread(target=self._insist, name="departure", daemon=True).start()
        running = self._detach()
        then = "this worker begins anew" if begin_anew else "stopping"
        _say(f"{then}; {', '.join(running)} runs on and is adopted by the next worker" if running else then)
        if begin_anew:
            atexit.register(_begin_anew)

    def _insist(self) -> None:
        """End the process, unless it has ended by itself in time."""
        time.sleep(self._limit_seconds)
        _say(f"something did not answer for {self._limit_seconds:g} s: left as it is")
        if self._begins_anew:
            _begin_anew()
        os._exit(0)


def _hear(number: int, frame: Any) -> None:
    """What counts was written to the pipe already."""


def _has_terminal() -> bool:
    return os.isatty(sys.__stdout__.fileno()) if sys.__stdout__ else False


def _begin_anew() -> None:
    """Replace this process by a new one with the same command line; locks and connections end with it."""
    platforms.close_open_fds([sys.__stdin__, sys.__stdout__, sys.__stderr__])
    os.execv(sys.executable, [sys.executable, *sys.argv])


def _say(text: str) -> None:
    """Print at once: logging may be what somebody waits for."""
    os.write(2, f"worker: {text}\n".encode())

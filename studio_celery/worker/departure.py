"""How a worker process ends: what signals mean, and that it is soon gone whatever it waits for.

- SIGTERM: takes nothing more, finishes what runs.
- a second SIGTERM, SIGINT (Ctrl-C), SIGQUIT: leaves experiments running, gives their messages back, exits 0.
- SIGHUP: leaves them running, too, and begins anew in the same process; if its terminal was closed, it exits. A worker
  that was told to stop, before or after, does not begin anew.

Who leaves waits for nothing longer than a limit: a store or an engine that does not answer loses nothing then, because
leases run out and the next worker adopts what runs.

Signals are read from a pipe that the kernel's handler writes to, by a thread: so they are heard while the main thread
is inside a call, and nothing is done between two instructions of somebody who holds a lock. What they mean before there
is anything to leave, see `starting`.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from studio_celery.worker.starting import SIGNALS, Terminal, starting

logger = logging.getLogger(__name__)


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
        self._terminal = starting.terminal or Terminal()
        self._heard, self._noted = os.pipe()
        self._asked = False
        self._leaving = False
        self._begins_anew = False

    def listen(self) -> None:
        """Hear signals from now on, until the process ends; begin anew at once if that was asked for meanwhile."""
        for end in (self._heard, self._noted):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._noted, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, _hear)
        if starting.is_to_begin_anew:
            self._begins_anew = True
            self._begin_anew()
            os._exit(0)
        threading.Thread(target=self._listen, name="signals", daemon=True).start()

    def _listen(self) -> None:
        """Outermost loop of a thread."""
        while True:
            select.select([self._heard], [], [])
            for number in self._read():
                try:
                    self._obey(number)
                except Exception:
                    logger.exception("What signal %d asks for cannot be done in order.", number)

    def _read(self) -> bytes:
        """The numbers of signals that nobody has read yet; none if another thread was first."""
        try:
            return os.read(self._heard, 64)
        except BlockingIOError:
            return b""

    def _obey(self, number: int) -> None:
        if number not in SIGNALS:
            return
        try:
            if number == signal.SIGHUP and not self._terminal.is_closed:
                self._reload()
            elif number == signal.SIGTERM and not (self._asked or self._leaving or self._detach_on_stop):
                self._asked = True
                _say("finishing what runs; again to leave it running without this worker")
            else:
                self._leave()
        finally:
            self._stop_taking()

    def _reload(self) -> None:
        if self._asked:
            _say("told to stop already: finishing what runs, and not beginning anew")
        else:
            self._leave(begin_anew=True)

    def _leave(self, *, begin_anew: bool = False) -> None:
        if self._leaving:
            if self._begins_anew and not begin_anew:
                self._begins_anew = False
                _say("stopping, and not beginning anew")
            return
        self._leaving, self._begins_anew = True, begin_anew
        threading.Thread(target=self._insist, name="departure", daemon=True).start()
        if begin_anew:
            atexit.register(self._begin_anew)
        running = self._detach()
        then = "this worker begins anew" if begin_anew else "stopping"
        _say(f"{then}; {', '.join(running)} runs on and is adopted by the next worker" if running else then)

    def _insist(self) -> None:
        """End the process, unless it has ended by itself in time."""
        time.sleep(self._limit_seconds)
        _say(f"something did not answer for {self._limit_seconds:g} s: left as it is")
        self._begin_anew()
        os._exit(0)

    def _begin_anew(self) -> None:
        """Replace this process by a new one with the same command line, unless it was told to stop meanwhile.

        Locks and connections end with it, as Python opens nothing that a new program inherits. What comes from now on
        waits for the new one.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        told_to_stop = any(number in SIGNALS and number != signal.SIGHUP for number in self._read())
        self._begins_anew = self._begins_anew and not told_to_stop
        if not self._begins_anew:
            return
        try:
            os.execv(sys.executable, [sys.executable, *sys.argv])
        except OSError as exc:
            _say(f"cannot begin anew ({sys.executable}: {exc.strerror}): start it again")
            os._exit(1)


def _hear(number: int, frame: Any) -> None:
    """What counts was written to the pipe already."""


def _say(text: str) -> None:
    """Print at once: logging may be what somebody waits for; if nobody is there to read it, it is left unsaid."""
    with contextlib.suppress(OSError):
        os.write(2, f"worker: {text}\n".encode())

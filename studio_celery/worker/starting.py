"""What signals mean while a worker starts, when nothing runs that it would have to leave.

- SIGTERM, SIGINT, SIGQUIT: it ends at once, exit code 0.
- SIGHUP: it begins anew as soon as it listens (see `departure`); if its terminal was closed, it ends.

A process that begins anew keeps its mask of blocked signals and those that are pending: `hear` lets them through.
"""

from __future__ import annotations

import os
import signal
from typing import Any

#: What a worker listens to.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


class Terminal:
    """The terminal of this process, as it was when this was made."""

    def __init__(self) -> None:
        self._descriptors = [number for number in (0, 1, 2) if os.isatty(number)]

    @property
    def is_closed(self) -> bool:
        """Whether there was one, and it hung up."""
        return not all(map(os.isatty, self._descriptors))


class Starting:
    """Of one worker process, until it listens."""

    def __init__(self) -> None:
        self.terminal: Terminal | None = None
        self.is_to_begin_anew = False

    def hear(self) -> None:
        """Hear signals from now on; called by the main thread as early as can be, and no matter how often.

        A handler, even for what is ignored: children would inherit what is set to SIG_IGN, and what is blocked.
        """
        if self.terminal is not None:
            return
        self.terminal = Terminal()
        for number in SIGNALS:
            signal.signal(number, self._obey)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _obey(self, number: int, frame: Any) -> None:
        if number != signal.SIGHUP or self.terminal is None or self.terminal.is_closed:
            os._exit(0)
        self.is_to_begin_anew = True


#: Of this process.
starting = Starting()

"""The broker's event loop, which knows the end of a turn, and stays awake for a client that asks again at once."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any

#: Seconds for which the loop looks for the next request before it sleeps, while the last one came within them: to wake
#: a processor that sleeps costs a client that waits for each answer a good part of its time.
AWAKE_SECONDS = 0.0005

#: How often it stays awake in vain before it sleeps at once.
_TRIES = 4

Ready = list[tuple[selectors.SelectorKey, int]]


class _Selector(selectors.DefaultSelector):
    """Looks for what is ready, at the end of each turn of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.last: list[Callable[[], object]] = []
        #: How often it is still worth to stay awake.
        self._tries = 0

    def select(self, timeout: float | None = None) -> Ready:
        if self.last:
            calls, self.last = self.last, []
            for call in calls:
                call()
            timeout = 0  # they may have given the loop something to do
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        return self._wait(timeout)

    def _wait(self, timeout: float | None) -> Ready:
        began = time.monotonic()
        asleep = began + AWAKE_SECONDS
        found: Ready = []
        if self._tries:
            latest = asleep if timeout is None else min(asleep, began + timeout)
            while not found and time.monotonic() < latest:
                found = super().select(0)
            timeout = None if timeout is None else max(began + timeout - time.monotonic(), 0)
        found = found or super().select(timeout)
        if found and time.monotonic() < asleep:
            self._tries = _TRIES
        elif self._tries:
            self._tries -= 1
        return found


class Loop(asyncio.SelectorEventLoop):
    """An event loop with a last place in each turn."""

    def __init__(self) -> None:
        self._looking = _Selector()
        super().__init__(self._looking)

    def call_last(self, callback: Callable[[], object]) -> None:
        """Call something once everything was called that is ready in this turn, and before anybody is waited for."""

        def call() -> None:
            try:
                callback()
            except Exception as exc:  # noqa: BLE001 - told as the loop tells what others raise
                self.call_exception_handler({"message": f"{callback} failed", "exception": exc})

        self._looking.last.append(call)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in such a loop to its end."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main)


def call_last(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    """Call something at the end of this turn; on an event loop that knows none, in the next one."""
    if isinstance(loop, Loop):
        loop.call_last(callback)
    else:
        loop.call_soon(callback)

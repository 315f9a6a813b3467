"""A change on its way to the disk, and the response that will tell of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transports.local.errors import UnavailableError


class Prompt(asyncio.Future[Any]):
    """A future with one listener who is told in the call that ends it, and not a turn of the loop later."""

    _listener: Callable[[], object] | None = None

    def listen(self, listener: Callable[[], object]) -> None:
        """Have it called when this is done, at once if it is."""
        self._listener = listener
        if self.done():
            self._tell()

    def set_result(self, result: Any) -> None:
        super().set_result(result)
        self._tell()

    def set_exception(self, exception: type[BaseException] | BaseException) -> None:
        super().set_exception(exception)
        self._tell()

    def cancel(self, msg: Any = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled:
            self._tell()
        return cancelled

    def _tell(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            try:
                listener()
            except Exception as exc:  # noqa: BLE001 - as with any callback of a future
                self.get_loop().call_exception_handler({"message": f"{listener} failed", "exception": exc})


@dataclass(frozen=True, slots=True)
class Promise:
    """What was begun, and goes on whoever waits for it."""

    done: asyncio.Future[Any]
    #: Makes the response from what was done; may raise a ``RequestError``.
    respond: Callable[[Any], Any]

    def when_done(self, listener: Callable[[], object]) -> None:
        """Call something once it is done: at once, where that is possible."""
        if isinstance(self.done, Prompt):
            self.done.listen(listener)
        else:
            self.done.add_done_callback(lambda _: listener())

    def response(self) -> Any:
        """Return the response, once it is done; raise what went wrong."""
        if self.done.cancelled():
            raise UnavailableError("The broker is stopping.")
        return self.respond(self.done.result())

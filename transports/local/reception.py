"""What happens at the door to every request: who asks is found out, how it ends is counted and, if badly, told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import cache

import grpc

from transports.local.access import Caller, Guard
from transports.local.answers import code_of, refuse
from transports.local.errors import RequestError
from transports.local.http2 import Call, GoneError
from transports.local.monitoring.counters import Counters

logger = logging.getLogger(__name__)

#: What is answered with the caller's rights.
Work = Callable[[Caller], Awaitable[None]]

#: The code of what went well, as it is counted.
_OK = grpc.StatusCode.OK.name


class Reception:
    """Receives the calls of all methods; ``name`` is a method's path."""

    def __init__(self, guard: Guard, counters: Counters) -> None:
        self.guard = guard
        self.counters = counters

    async def serve(self, name: str, call: Call, work: Work) -> None:
        """Do work that answers by itself; cancelled, it has ended with its client, or with the time that had."""
        caller = None
        try:
            caller = self.guard.admit(call.metadata)
            await work(caller)
        except asyncio.CancelledError:
            self._count(name, _given_up(call))
            raise
        except Exception as exc:  # noqa: BLE001 - answered, and logged if it is no refusal
            self.refuse(name, call, caller, exc)
        else:
            self._count(name, _OK)

    def succeed(self, name: str, call: Call, response: bytes) -> None:
        """Answer with the only response."""
        self._count(name, _given_up(call) if call.gone else _OK)
        call.answer(response)

    def refuse(self, name: str, call: Call, caller: Caller | None, error: Exception) -> None:
        """Answer an error with its code, and tell the guard about somebody who was refused."""
        cut_off = isinstance(error, GoneError)
        self._count(name, _given_up(call) if call.gone or cut_off else code_of(error).name)
        if isinstance(error, RequestError):
            self._note(error, name, caller, call)
        elif not cut_off:
            logger.error("a request failed", exc_info=error)
        refuse(call, error)

    def _note(self, error: RequestError, name: str, caller: Caller | None, call: Call) -> None:
        what = f"{_short(name)} from {call.peer}"
        match code_of(error):
            case grpc.StatusCode.UNAUTHENTICATED:
                self.guard.note_refusal("unauthenticated", f"{what}: {error}")
            case grpc.StatusCode.PERMISSION_DENIED:
                self.guard.note_refusal(f"{caller} {error}", f"{what} by {caller}: {error}")

    def _count(self, name: str, code: str) -> None:
        self.counters.requests[_short(name), code] += 1


def _given_up(call: Call) -> str:
    """Return the code of a call that was not waited for: its client cancelled it, or the client's time was up."""
    in_time = call.time_remaining() != 0
    return (grpc.StatusCode.CANCELLED if in_time else grpc.StatusCode.DEADLINE_EXCEEDED).name


@cache
def _short(name: str) -> str:
    return name.rpartition("/")[2]

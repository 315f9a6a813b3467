"""Waiting for something that cannot be undone once it is done, even if the waiting task is cancelled then."""

from __future__ import annotations

import asyncio


async def wait_until_sent(sent: asyncio.Future[None]) -> None:
    """Wait until a message is on its way.

    A cancellation that comes after it went, but before its writer's turn, is put off to where the task waits next: the
    writer has to know that it went.

    Raises:
        asyncio.CancelledError: The task was cancelled, and the message has not gone.
    """
    try:
        await sent
    except asyncio.CancelledError:
        if not sent.done() or sent.cancelled() or sent.exception() is not None:
            raise
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        task.cancel()

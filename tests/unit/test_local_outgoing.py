"""One client's outgoing messages: never two at once, and none after its writer was cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from transports.local import wire
from transports.local.outgoing import Outgoing


class Context:
    """A call that refuses a second write while one is under way, as gRPC's does; ``go_on`` lets writes end."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.written: list[bytes] = []
        self._busy = False

    async def send_initial_metadata(self, metadata: Any) -> None:
        await asyncio.sleep(0)

    async def write(self, data: bytes) -> None:
        assert not self._busy, "GRPC_CALL_ERROR_TOO_MANY_OPERATIONS"
        self._busy = True
        try:
            await self.go_on.wait()
            self.written.append(data)
        finally:
            self._busy = False


def response(name: str) -> Any:
    return wire.request_type("StreamingPullRequest")(subscription=name)


def test_several_may_write_at_once_and_one_is_written_after_the_other() -> None:
    async def main() -> None:
        context: Any = Context()
        outgoing = Outgoing(context)
        writers = [asyncio.ensure_future(outgoing.write(response(name))) for name in "abc"]
        await asyncio.sleep(0.01)
        writers[1].cancel()  # it waits for its turn: nothing of it has gone out
        with pytest.raises(asyncio.CancelledError):
            await writers[1]
        context.go_on.set()
        await asyncio.gather(writers[0], writers[2])
        assert context.written == [response(name).SerializeToString() for name in "ac"]

    asyncio.run(main())

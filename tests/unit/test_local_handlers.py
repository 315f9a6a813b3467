"""Methods between the server and the engine: when they are answered."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from transports.local import methods
from transports.local.access import Guard, TokenFile
from transports.local.errors import UnavailableError
from transports.local.handlers import Adapter
from transports.local.http2 import Call
from transports.local.methods import QuickMethod
from transports.local.monitoring.counters import Counters
from transports.local.promises import Promise, Prompt


class _Call:
    """What an answer needs of a call."""

    metadata = ()
    gone = False
    peer = "ipv4:127.0.0.1:1"

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def answer(self, message: bytes) -> None:
        self.answers.append(message)

    def finish(self, code: Any, text: str = "", trailing: Any = ()) -> None:
        self.answers.append(code.name)


@pytest.mark.parametrize("end", ["done", "refused"])
def test_what_is_done_is_answered_in_the_call_that_ends_it(tmp_path: Path, end: str) -> None:
    async def main() -> None:
        done, call = Prompt(), _Call()
        method = QuickMethod(lambda request: Promise(done, lambda ids: ids), lambda data: data, lambda ids: b"answer")
        unary = Adapter(Guard(TokenFile(tmp_path), False), Counters()).quick(methods.PUBLISH, method)
        unary.begin(cast(Call, call), b"request")
        assert call.answers == []
        if end == "done":
            done.set_result([1])
            assert call.answers == [b"answer"]
        else:
            done.set_exception(UnavailableError("The disk is full."))
            assert call.answers == ["UNAVAILABLE"]

    asyncio.run(main())

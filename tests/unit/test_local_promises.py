"""Futures that tell one listener in the call that ends them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from transports.local.promises import Promise, Prompt


@pytest.mark.parametrize("end", ["result", "error", "cancelled"])
def test_its_listener_is_told_in_the_call_that_ends_it(end: str) -> None:
    async def main() -> None:
        future = Prompt()
        future.listen(lambda: told.append(future.done()))
        assert told == []
        match end:
            case "result":
                future.set_result(7)
                assert await future == 7
            case "error":
                future.set_exception(ValueError("no"))
                with pytest.raises(ValueError, match="no"):
                    await future
            case _:
                assert future.cancel()
                assert not future.cancel()
        assert told == [True]

    told: list[bool] = []
    asyncio.run(main())


def test_who_listens_late_is_told_at_once() -> None:
    async def main() -> None:
        future = Prompt()
        future.set_result(None)
        future.listen(lambda: told.append(True))
        assert told == [True]

    told: list[bool] = []
    asyncio.run(main())


def test_a_listener_that_fails_is_told_of_and_harms_nobody() -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        future = Prompt()
        future.listen(lambda: 1 // 0)
        future.set_result(7)
        assert await future == 7

    told: list[Any] = []
    asyncio.run(main())
    assert [type(each) for each in told] == [ZeroDivisionError]


@pytest.mark.parametrize("prompt", [True, False])
def test_a_promise_tells_whatever_future_it_is(prompt: bool) -> None:
    async def main() -> None:
        done: asyncio.Future[int] = Prompt() if prompt else asyncio.get_running_loop().create_future()
        promise = Promise(done, lambda number: number + 1)
        promise.when_done(lambda: told.append(promise.response()))
        done.set_result(1)
        assert told == ([2] if prompt else [])
        await asyncio.sleep(0)
        assert told == [2]

    told: list[int] = []
    asyncio.run(main())

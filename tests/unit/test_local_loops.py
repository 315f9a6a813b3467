"""The broker's event loop: the end of a turn, and staying awake."""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from transports.local import loops
from transports.local.loops import Loop, call_last


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


class TestTurns:
    def test_the_last_is_called_after_all_that_is_ready_and_before_others_are_looked_for(self, loop: Loop) -> None:
        async def main() -> None:
            call_last(loop, lambda: order.append("last"))
            loop.call_soon(order.append, "next turn")
            order.append("here")
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        order: list[str] = []
        loop.run_until_complete(main())
        assert order == ["here", "last", "next turn"]

    def test_it_is_called_although_nothing_else_happens(self, loop: Loop) -> None:
        async def main() -> None:
            called = asyncio.Event()
            call_last(loop, lambda: call_last(loop, called.set))
            async with asyncio.timeout(30):
                await called.wait()

        loop.run_until_complete(main())

    def test_one_that_fails_is_told_of_and_the_others_are_called(self, loop: Loop) -> None:
        async def main() -> None:
            loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
            call_last(loop, lambda: 1 // 0)
            call_last(loop, lambda: called.append(True))
            await asyncio.sleep(0)

        told: list[Any] = []
        called: list[bool] = []
        loop.run_until_complete(main())
        assert [type(each) for each in told] == [ZeroDivisionError]
        assert called == [True]

    def test_another_loop_calls_it_in_the_next_turn(self) -> None:
        async def main() -> None:
            call_last(asyncio.get_running_loop(), lambda: order.append("last"))
            order.append("here")
            await asyncio.sleep(0)

        order: list[str] = []
        asyncio.run(main())
        assert order == ["here", "last"]

    def test_a_coroutine_runs_in_it_to_its_end(self) -> None:
        async def main() -> None:
            found.append(asyncio.get_running_loop())

        found: list[asyncio.AbstractEventLoop] = []
        loops.run(main())
        assert [type(each) for each in found] == [Loop]
        assert found[0].is_closed()


class _Clock:
    """A clock that goes on whenever somebody looks at it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.step = 0.0

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


class TestWaking:
    """How often it is looked for what is ready, without waiting, before it is waited for."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> _Clock:
        clock = _Clock()
        monkeypatch.setattr(loops, "time", clock)
        return clock

    @pytest.fixture
    def looks(self, monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
        """With which timeouts it was looked."""
        found: list[float | None] = []
        real = selectors.DefaultSelector.select

        def select(selector: Any, timeout: float | None = None) -> Any:
            found.append(timeout)
            return real(selector, timeout)

        monkeypatch.setattr(selectors.DefaultSelector, "select", select)
        return found

    @pytest.fixture
    def ends(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        one, other = socket.socketpair()
        with one, other:
            yield one, other

    def test_it_stays_awake_after_what_came_quickly_and_no_longer_than_that(
        self, clock: _Clock, looks: list[float | None], ends: tuple[socket.socket, socket.socket]
    ) -> None:
        selector = loops._Selector()
        selector.register(ends[0], selectors.EVENT_READ)
        assert selector.select(0.001) == []
        assert looks == [0.001], "nothing has come so far: it sleeps at once"
        ends[1].send(b"x")
        assert selector.select(10)
        looks.clear()
        clock.step = loops.AWAKE_SECONDS / 4
        assert selector.select(10)
        assert looks == [0], "it is there at the first look"
        ends[0].recv(1)
        looks.clear()
        for _ in range(loops._TRIES):
            assert selector.select(0.001) == []
        assert [bool(each) for each in looks] == [False, False, False, True] * loops._TRIES
        looks.clear()
        assert selector.select(0.001) == []
        assert looks == [0.001], "in vain so often, it sleeps at once"
        selector.close()

    def test_what_comes_late_is_not_worth_it(
        self, clock: _Clock, looks: list[float | None], ends: tuple[socket.socket, socket.socket]
    ) -> None:
        selector = loops._Selector()
        selector.register(ends[0], selectors.EVENT_READ)
        ends[1].send(b"x")
        clock.step = loops.AWAKE_SECONDS * 2
        assert selector.select(10)
        assert selector.select(10)
        assert looks == [10, 10]
        selector.close()

    def test_it_sleeps_no_longer_for_having_been_awake(self, clock: _Clock, looks: list[float | None]) -> None:
        selector = loops._Selector()
        clock.step = loops.AWAKE_SECONDS / 4
        selector._tries = 1
        assert selector.select(loops.AWAKE_SECONDS / 2) == []
        assert looks == [0, 0], "a timer ends it that is due before"
        looks.clear()
        selector._tries = 1
        assert selector.select(loops.AWAKE_SECONDS * 2) == []
        assert looks[:3] == [0, 0, 0]
        assert looks[3:] == [pytest.approx(loops.AWAKE_SECONDS * 3 / 4)]
        selector.close()

    def test_a_loop_that_has_work_only_looks(self, looks: list[float | None]) -> None:
        selector = loops._Selector()
        selector._tries = loops._TRIES
        assert selector.select(0) == []
        assert looks == [0]
        selector.close()

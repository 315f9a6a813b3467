from __future__ import annotations

import signal

import pytest

from studio_celery.runtimes.contract import Exit
from studio_celery.runtimes.directory import Ending
from studio_celery.runtimes.docker.doubts import Doubts

KILLED = Exit(signal=signal.SIGKILL)
OBEYED = Ending(Exit(exit_code=0), interrupted=True)


@pytest.mark.parametrize(
    ("exit", "ending", "in_doubt"),
    [
        (KILLED, None, True),
        (Exit(signal=signal.SIGTERM), None, True),
        (OBEYED.exit, OBEYED, True),
        (Exit(signal=signal.SIGSEGV), None, False),
        (Exit(exit_code=1), None, False),
        (Exit(signal=signal.SIGKILL, out_of_memory=True), None, False),
        (Exit(lost="the container was removed"), None, False),
    ],
)
def test_who_was_ended_from_outside_may_have_been_by_the_engine(
    exit: Exit, ending: Ending | None, in_doubt: bool
) -> None:
    assert Doubts(60.0).about("c", exit, ending) is in_doubt


def test_the_doubt_ends_when_the_engine_stays_up() -> None:
    assert not Doubts(0.0).about("c", KILLED, None)


def test_what_we_ended_ourselves_is_in_no_doubt_until_it_is_removed() -> None:
    doubts = Doubts(60.0)
    doubts.kill("c")
    assert not doubts.about("c", KILLED, None)
    doubts.forget("c")
    assert doubts.about("c", KILLED, None)

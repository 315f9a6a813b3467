"""Which priorities a queue tells apart, and by which of them a message goes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transports.errors import BadURL
from transports.pubsub.options import Options
from transports.pubsub.topology.priorities import step, steps

PRIORITIES = st.integers(0, 255)


@pytest.mark.parametrize(
    ("max_priority", "found"),
    [
        (0, (0,)),
        (1, (0, 1)),
        (2, (0, 1, 2)),
        (3, (0, 1, 2, 3)),
        (4, (0, 2, 4)),
        (9, (0, 3, 6, 9)),
        (10, (0, 3, 6, 9)),
        (255, (0, 64, 128, 192)),
    ],
)
def test_a_highest_priority_is_divided_into_four_steps_at_most(max_priority: int, found: tuple[int, ...]) -> None:
    assert steps(max_priority, ()) == found


@given(PRIORITIES)
def test_steps_begin_at_zero_and_ascend_up_to_the_highest(max_priority: int) -> None:
    found = steps(max_priority, ())
    assert found[0] == 0
    assert len(found) <= 4
    assert list(found) == sorted(set(found))
    assert found[-1] <= max_priority


def test_what_the_transport_was_told_beats_the_queue() -> None:
    assert steps(10, (0, 5)) == (0, 5)


@pytest.mark.parametrize(("priority", "found"), [(0, 0), (2, 0), (3, 3), (5, 3), (9, 9), (255, 9), (-1, 0)])
def test_a_message_goes_by_the_highest_step_not_above_its_own(priority: int, found: int) -> None:
    assert step(priority, (9, 0, 6, 3)) == found


def test_without_steps_every_message_goes_by_zero() -> None:
    assert step(9, ()) == 0


@given(PRIORITIES, PRIORITIES, PRIORITIES)
def test_a_higher_priority_never_goes_by_a_lower_step(max_priority: int, one: int, other: int) -> None:
    known = steps(max_priority, ())
    low, high = sorted((one, other))
    assert step(low, known) <= step(high, known)


@pytest.mark.parametrize(("given_steps", "found"), [([9, 3, 3], (0, 3, 9)), ((), ()), ([0], (0,)), (["6"], (0, 6))])
def test_the_option_is_put_in_order(given_steps: Any, found: tuple[int, ...]) -> None:
    assert Options.from_mapping({"priority_steps": given_steps}).priority_steps == found


@pytest.mark.parametrize("wrong", [3, [-1], [256], ["high"], None])
def test_an_option_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(BadURL, match="priority_steps"):
        Options.from_mapping({"priority_steps": wrong})

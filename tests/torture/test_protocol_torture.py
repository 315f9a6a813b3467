"""Every schedule of greater models of the protocol: tens of seconds each. See `tests/unit/test_protocol_model`."""

from __future__ import annotations

import pytest
from protocol_model import Model
from protocol_search import Search
from protocol_world import Plan

PLANS = {
    "three workers, a crash and a cut": Plan(hosts=(0, 0, 1), crashes=1, cuts=1),
    "one host, two crashes and a cut": Plan(hosts=(0, 0), crashes=2, cuts=1),
    "two hosts, one goes down, a crash and a cut": Plan(hosts=(0, 1), host_crashes=1, crashes=1, cuts=1),
    "two hosts, a crash, a cut, a stop": Plan(hosts=(0, 1), crashes=1, cuts=1, stops=1),
    "two hosts, all but cuts": Plan(hosts=(0, 1), crashes=1, stops=1, lost_answers=1, failed_starts=1),
    "two processes of two threads": Plan(hosts=(0, 1), threads=2, messages=2, crashes=1, cuts=1),
}


@pytest.mark.parametrize("name", list(PLANS))
def test_every_schedule_keeps_the_guarantees(name: str) -> None:
    Search(Model(PLANS[name])).run()

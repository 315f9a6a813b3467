"""Every schedule of small models of the protocol, over the real fold and decisions; and broken ones, to be found out.

Checked in each: nothing follows an end; at most one attempt is owned and alive; only its owner writes what an owner
writes; the result shows one attempt's output, each byte once; no more attempts are lost than faults have struck; never
are two containers of the experiment alive on one host; nobody stops what another one owns; and as long as one worker
keeps running, every fair schedule ends: journal terminal, messages acknowledged, nothing left on a host with a worker.
"""

from __future__ import annotations

import dataclasses

import pytest
from protocol_book import Violation
from protocol_model import Model
from protocol_search import Search
from protocol_world import Plan, Protocol

from studio_celery import journal as real
from studio_celery.experiment import Attempt, Status
from studio_celery.journal import (
    Action,
    Adopt,
    Entry,
    Kind,
    Leave,
    NotAllowed,
    Observation,
    PutDown,
    Rules,
    Standing,
    State,
)

SAME, TWO, THREE = (0, 0), (0, 1), (0, 0, 1)

PLANS = {
    "two hosts, two crashes and a cut": Plan(hosts=TWO, crashes=2, cuts=1),
    "two hosts, two messages, a crash and a cut": Plan(hosts=TWO, messages=2, crashes=1, cuts=1),
    "two hosts, and idle workers may fail": Plan(hosts=TWO, crashes=1, cuts=1, idle_faults=True),
    "two hosts, one goes down or its engine, a cut": Plan(hosts=TWO, host_crashes=1, cuts=1),
    "two hosts, a stop, a crash": Plan(hosts=TWO, stops=1, crashes=1, messages=2),
    "two hosts, a stop, a cut": Plan(hosts=TWO, stops=1, cuts=1),
    "two hosts, answers of the store are lost": Plan(hosts=TWO, lost_answers=2, crashes=1),
    "two hosts, two attempts at most": Plan(hosts=TWO, crashes=2, max_attempts=2),
    "one host, two messages, two crashes": Plan(hosts=SAME, crashes=2, messages=2),
    "one host, a crash and a cut": Plan(hosts=SAME, crashes=1, cuts=1),
    "one host, starts fail": Plan(hosts=SAME, failed_starts=2, crashes=1),
    "one process, two threads": Plan(hosts=(0,), threads=2, messages=2, crashes=1, lost_answers=1, stops=1),
    "three workers, two messages, a cut": Plan(hosts=THREE, messages=2, cuts=1),
    "three workers, two crashes": Plan(hosts=THREE, crashes=2),
    "three workers, a stop, a cut": Plan(hosts=THREE, stops=1, cuts=1),
}


@pytest.mark.parametrize("name", list(PLANS))
def test_every_schedule_keeps_the_guarantees(name: str) -> None:
    Search(Model(PLANS[name])).run()


def test_the_model_gets_everywhere() -> None:
    """Else a guarantee might be kept because nothing happens."""
    kinds: set[Kind] = set()
    statuses: set[Status] = set()
    for plan in (
        Plan(hosts=SAME, crashes=1, stops=1),
        Plan(hosts=TWO, crashes=1, failed_starts=1),
        Plan(hosts=TWO, crashes=1, max_attempts=1),
    ):
        model = Model(plan)
        Search(model).run()
        kinds |= model.book.kinds
        statuses |= {state.status for state in model.book.states}
    assert kinds == set(Kind) - {Kind.SUBMITTED, Kind.EXPIRED, Kind.REMOVED}
    assert statuses == set(Status) - {Status.EXPIRED}


# -- broken protocols ------------------------------------------------------------------------------------------------


def unfenced(state: State, entry: Entry) -> State:
    """Takes what a former owner writes for the owner's."""
    data = dict(entry.data)
    if "epoch" in data:
        data["epoch"] = state.owner_epoch
    return real.fold(state, dataclasses.replace(entry, data=data))


def unfenced_losses(state: State, entry: Entry) -> State:
    """Takes a former owner's `lost` for that of somebody who looked at the latest attempt."""
    if entry.kind is Kind.LOST:
        entry = dataclasses.replace(entry, data={"attempt": len(state.attempts), "reason": "r"})
    return real.fold(state, entry)


def endless(state: State, entry: Entry) -> State:
    """Lets entries follow an end."""
    reopened = dataclasses.replace(state, status=Status.WAITING) if state.status.terminal else state
    return real.fold(reopened, entry)


def deaf(state: State, entry: Entry) -> State:
    """Never lets a stop be carried out."""
    if entry.kind is Kind.STOPPED:
        raise NotAllowed
    return real.fold(state, entry)


def impatient(state: State, seen: Observation, rules: Rules) -> Action:
    """Takes every attempt of somebody else for dead."""
    return real.decide(state, dataclasses.replace(seen, heartbeat_age_seconds=10.0**6), rules)


def patient_for_ever(state: State, seen: Observation, rules: Rules) -> Action:
    """Takes no attempt for dead that was not seen to die."""
    return real.decide(state, dataclasses.replace(seen, heartbeat_age_seconds=0.0), rules)


def forgets_who_runs_it(state: State, seen: Observation, rules: Rules) -> Action:
    """Takes what another thread of the process has in hand for nobody's."""
    mine = state.live is not None and seen.ours
    return real.decide(state, dataclasses.replace(seen, ours=False, mine=mine or seen.mine), rules)


def without_messages(state: State, seen: Observation, rules: Rules) -> Action:
    """Gives up what waits for the submitter's word."""
    action = real.decide(state, seen, rules)
    return real.Defer(60) if isinstance(action, real.Enqueue) else action


def onlooker_without_patience(state: State, seen: Observation, rules: Rules) -> Action | None:
    """Stops what somebody looks after as if its owner were dead."""
    return real.decide_onlooker(state, dataclasses.replace(seen, heartbeat_age_seconds=10.0**6), rules)


def stops_what_it_lost(state: State, number: int, epoch: int) -> Standing:
    """Takes an attempt that was adopted for one that is over."""
    now = real.standing(state, number, epoch)
    return Standing.SUPERSEDED if now is Standing.HANDED_OVER else now


def never_superseded(state: State, number: int, epoch: int) -> Standing:
    """Does not notice that it is no longer the owner."""
    now = real.standing(state, number, epoch)
    return Standing.OWNER if now is Standing.SUPERSEDED else now


def adopts_from_the_living(state: State, number: int, seen: Observation) -> Adopt | PutDown | Leave:
    """Does not ask whether the owner's lock is free."""
    return real.decide_found(state, number, dataclasses.replace(seen, owner_gone=True))


def tidies_nothing(state: State, number: int, seen: Observation) -> Adopt | PutDown | Leave:
    """Leaves what nobody wants."""
    found = real.decide_found(state, number, seen)
    return Leave() if isinstance(found, PutDown) else found


def heartbeats_only(live: Attempt, heartbeat: float | None) -> float:
    """Does not take an adoption for a sign of life."""
    return heartbeat or live.claimed_stored_at


BROKEN = [
    (Protocol(fold=unfenced), Plan(hosts=TWO, cuts=1)),
    (Protocol(fold=unfenced_losses), Plan(hosts=TWO, host_crashes=1, cuts=1)),
    (Protocol(fold=endless), Plan(hosts=TWO, cuts=1, stops=1)),
    (Protocol(fold=deaf), Plan(hosts=TWO, stops=1)),
    (Protocol(decide=impatient), Plan(hosts=TWO, messages=2)),
    (Protocol(decide=patient_for_ever), Plan(hosts=TWO, crashes=1)),
    (Protocol(decide=forgets_who_runs_it), Plan(hosts=(0,), threads=2, messages=2)),
    (Protocol(decide=without_messages), Plan(hosts=TWO)),
    (Protocol(decide_onlooker=onlooker_without_patience), Plan(hosts=TWO, stops=1)),
    (Protocol(standing=stops_what_it_lost), Plan(hosts=SAME, cuts=1)),
    (Protocol(standing=never_superseded), Plan(hosts=SAME, cuts=1)),
    (Protocol(decide_found=adopts_from_the_living), Plan(hosts=SAME)),
    (Protocol(decide_found=tidies_nothing), Plan(hosts=TWO, crashes=1)),
    (Protocol(sign_of_life=heartbeats_only), Plan(hosts=SAME, crashes=2, messages=2)),
    (Protocol(creates_once=False), Plan(hosts=TWO, crashes=1)),
    (Protocol(doorway=False), Plan(hosts=SAME, cuts=1)),
    (Protocol(puts_down_former=False), Plan(hosts=SAME, cuts=1)),
]


@pytest.mark.parametrize(("protocol", "plan"), BROKEN)
def test_the_search_finds_what_a_broken_rule_does(protocol: Protocol, plan: Plan) -> None:
    Search(Model(plan)).run()
    with pytest.raises(Violation):
        Search(Model(plan, protocol), most=20_000).run()

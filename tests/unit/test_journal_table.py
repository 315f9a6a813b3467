"""The fold as a table: every state by every kind of entry and every writer, allowed or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from journals import EPOCH, JOURNALS, QUEUED, STOP_REQUESTED, entry, released, submitted

from studio_celery.experiment import Status
from studio_celery.journal import RETRY, Entry, Kind, NotAllowed, State, fold, fold_all

K, S = Kind, Status


def _epoch(state: State) -> int:
    return state.attempts[-1].epoch if state.attempts else EPOCH


def _by_owner(kind: Kind, **data: object) -> Callable[[State], Entry]:
    return lambda state: entry(kind, epoch=_epoch(state), **data)


#: Every kind, by everybody who may write it; for the state that it comes after.
ENTRIES: dict[str, Callable[[State], Entry]] = {
    "submitted": lambda state: submitted(),
    "queued": lambda state: QUEUED,
    "queued again": lambda state: entry(K.QUEUED, by="w9", again=True, reason="requeued"),
    "claimed": lambda state: entry(K.CLAIMED, by="w9", attempt=len(state.attempts) + 1, host="h"),
    "claimed, wrong number": lambda state: entry(K.CLAIMED, by="w9", attempt=len(state.attempts) + 2, host="h"),
    "adopted": lambda state: entry(K.ADOPTED, by="w9", attempt=len(state.attempts), host="h", log_offset=9),
    "adopted, former attempt": lambda state: entry(K.ADOPTED, by="w9", attempt=0, host="h", log_offset=9),
    "started": _by_owner(K.STARTED),
    "released": lambda state: released(epoch=_epoch(state)),
    "retry": lambda state: released(RETRY, epoch=_epoch(state)),
    "lost, says its owner": lambda state: entry(K.LOST, attempt=len(state.attempts), reason="r", epoch=_epoch(state)),
    "lost, says somebody": lambda state: entry(K.LOST, attempt=len(state.attempts), reason="r"),
    "former attempt lost": lambda state: entry(K.LOST, attempt=0, reason="r"),
    "stop requested": lambda state: STOP_REQUESTED,
    "finished": _by_owner(K.FINISHED, exit_code=0),
    "failed, says its owner": _by_owner(K.FAILED, reason="r"),
    "failed, says somebody": lambda state: entry(K.FAILED, reason="r"),
    "stopped, says its owner": _by_owner(K.STOPPED, reason="r"),
    "stopped, says somebody": lambda state: entry(K.STOPPED, reason="r"),
    "expired": lambda state: entry(K.EXPIRED, reason="r"),
    "removed": lambda state: entry(K.REMOVED),
}

#: Whoever looks may end what nobody owns.
_ENDED_BY_SOMEBODY = {"failed, says somebody": S.FAILED, "stopped, says somebody": S.STOPPED}
#: What the owner of an attempt may write in any state of it, and others about it.
_OWNED = {
    "released": S.WAITING,
    "retry": S.WAITING,
    "lost, says its owner": S.WAITING,
    "lost, says somebody": S.WAITING,
    "failed, says its owner": S.FAILED,
    "stopped, says its owner": S.STOPPED,
}
_PREPARING = {**_OWNED, "adopted": S.PREPARING, "started": S.RUNNING, "queued again": S.PREPARING}
_RUNNING = {**_OWNED, "adopted": S.RUNNING, "finished": S.FINISHED, "queued again": S.RUNNING}
_SUBMITTING = {**_ENDED_BY_SOMEBODY, "queued": S.WAITING}
_BETWEEN = {**_SUBMITTING, "queued again": S.WAITING}
_AGAIN = {**_BETWEEN, "claimed": S.PREPARING, "stop requested": S.WAITING}

#: What may follow each journal, and the status after it. Whatever is not here is refused.
ALLOWED: dict[str, dict[str, Status]] = {
    "nothing": {"submitted": S.SUBMITTING},
    "submitting": {**_SUBMITTING, "expired": S.EXPIRED, "stop requested": S.SUBMITTING},
    "submitting, stop requested": {**_SUBMITTING, "expired": S.EXPIRED},
    "waiting": {**_AGAIN, "expired": S.EXPIRED},
    "waiting, stop requested": {**_BETWEEN, "expired": S.EXPIRED},
    "preparing": {**_PREPARING, "stop requested": S.PREPARING},
    "preparing, stop requested": _PREPARING,
    "preparing, adopted": {**_PREPARING, "stop requested": S.PREPARING},
    "running": {**_RUNNING, "stop requested": S.RUNNING},
    "running, stop requested": _RUNNING,
    "running, adopted": {**_RUNNING, "stop requested": S.RUNNING},
    "lost": _AGAIN,
    "lost, stop requested": _BETWEEN,
    "released before the start": _AGAIN,
    "released after the start": _AGAIN,
    "to be tried again": _AGAIN,
    "finished": {"removed": S.FINISHED},
    "failed": {"removed": S.FAILED},
    "failed without an attempt": {"removed": S.FAILED},
    "stopped": {"removed": S.STOPPED},
    "expired": {"removed": S.EXPIRED},
    "removed": {},
}


@pytest.mark.parametrize("name", list(ENTRIES))
@pytest.mark.parametrize("journal", list(JOURNALS))
def test_every_entry_after_every_state(journal: str, name: str) -> None:
    state = fold_all(JOURNALS[journal])
    following = ENTRIES[name](state)
    expected = ALLOWED[journal].get(name)
    if expected is None:
        with pytest.raises(NotAllowed):
            fold(state, following)
    else:
        after = fold(state, following)
        assert after.status is expected
        assert after.seq == state.seq + 1


@pytest.mark.parametrize("journal", list(JOURNALS))
@pytest.mark.parametrize("name", [name for name, make in ENTRIES.items() if "epoch" in make(State()).data])
def test_nobody_writes_under_an_epoch_that_is_not_the_owners(journal: str, name: str) -> None:
    state = fold_all(JOURNALS[journal])
    right = ENTRIES[name](state)
    for epoch in {None, 0, EPOCH, 99} - {state.owner_epoch}:
        with pytest.raises(NotAllowed):
            fold(state, entry(right.kind, **{**right.data, "epoch": epoch}))


def test_every_status_has_a_row() -> None:
    assert {fold_all(entries).status for entries in JOURNALS.values()} == set(Status)
    assert ALLOWED.keys() == JOURNALS.keys()


def test_every_status_that_can_be_asked_to_stop_has_a_row_where_it_was() -> None:
    states = [fold_all(entries) for entries in JOURNALS.values()]
    assert {s.status for s in states if s.stop_requested_by and not s.status.terminal} == {
        status for status in Status if not status.terminal
    }


def test_every_kind_of_entry_has_a_column_and_follows_some_state() -> None:
    assert {make(State()).kind for make in ENTRIES.values()} == set(Kind)
    used = {name for row in ALLOWED.values() for name in row}
    assert {ENTRIES[name](State()).kind for name in used} == set(Kind)
    assert used <= ENTRIES.keys()


def test_every_way_to_leave_an_attempt_has_a_row() -> None:
    ways = {fold_all(entries).attempts[-1].over for entries in JOURNALS.values() if fold_all(entries).attempts}
    assert ways == {None, "released", "lost", RETRY, "ended"}


@pytest.mark.parametrize("journal", list(JOURNALS))
def test_at_most_one_attempt_is_alive_and_it_is_the_latest(journal: str) -> None:
    state = fold_all(JOURNALS[journal])
    assert all(attempt.over is not None for attempt in state.attempts[:-1])
    assert (state.live is not None) == (state.status in (S.PREPARING, S.RUNNING))

"""What entries amount to: the state after each, and which entries may follow it. Pure.

`fold` is the only place that knows what an entry does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from studio_celery.experiment import Attempt, Experiment, Status, digest_of
from studio_celery.journal.entries import RETRY, Entry, Kind


class NotAllowed(Exception):
    """An entry cannot follow the state; it is never written."""


@dataclass(frozen=True, kw_only=True)
class State:
    """What a journal amounts to after entry number `seq`."""

    seq: int = 0
    experiment: Experiment | None = None
    status: Status = Status.SUBMITTING
    reason: str = ""
    attempts: tuple[Attempt, ...] = ()
    stop_requested_by: str | None = None
    exit_code: int | None = None
    started_at: str | None = None
    finished_at: str | None = None
    artifacts: tuple[Mapping[str, Any], ...] = ()
    removed: bool = False
    submitted_stored_at: float = 0.0
    #: Number of the latest entry that says that a message is in the queue, and when it was stored.
    queued_seq: int = 0
    queued_stored_at: float = 0.0
    #: Of the record as it was submitted; the message carries the same.
    digest: str = ""
    #: (host, stored_at) of releases that came before the script had started. Hosts, because a worker that is started
    #: again has another id and the same broken engine.
    early_releases: tuple[tuple[str, float], ...] = ()

    @property
    def live(self) -> Attempt | None:
        """The attempt that somebody owns, if any."""
        return self.attempts[-1] if self.attempts and self.attempts[-1].over is None else None

    @property
    def owner_epoch(self) -> int | None:
        """The fencing token: number of the entry that made the present owner owner."""
        return self.live.epoch if self.live else None

    @property
    def interrupted(self) -> int:
        """Attempts that ended for no fault of the script's after it may have had effects."""
        return sum(a.over in ("lost", "released") for a in self.attempts) - len(self.early_releases)

    @property
    def script_failures(self) -> int:
        """Attempts whose script failed and that were followed, or may be, by another."""
        return sum(a.over == RETRY for a in self.attempts)


def fold_all(entries: Iterable[Entry], state: State | None = None) -> State:
    """Fold entries in order onto a state."""
    state = state or State()
    for entry in entries:
        state = fold(state, entry)
    return state


def fold(state: State, entry: Entry) -> State:
    """The state after `entry`; `NotAllowed` if it cannot follow."""
    if state.removed:
        raise NotAllowed("the experiment was removed")
    if state.status.terminal and entry.kind is not Kind.REMOVED:
        raise NotAllowed(f"the experiment is {state.status}")
    if (state.experiment is None) != (entry.kind is Kind.SUBMITTED):
        raise NotAllowed("the first entry, and only the first, is `submitted`")
    return dataclasses.replace(_FOLDS[entry.kind](state, entry), seq=state.seq + 1)


def _submitted(state: State, entry: Entry) -> State:
    record = entry.data["experiment"]
    return dataclasses.replace(
        state,
        experiment=Experiment.from_dict(record),
        digest=digest_of(record),
        submitted_stored_at=entry.stored_at,
    )


def _queued(state: State, entry: Entry) -> State:
    again = entry.data.get("again", False)
    if again and state.status is Status.SUBMITTING:
        raise NotAllowed("it was not queued before")
    if state.live and not again:
        raise NotAllowed("an attempt is alive")
    status = state.status if state.live else Status.WAITING
    return dataclasses.replace(state, status=status, queued_seq=state.seq + 1, queued_stored_at=entry.stored_at)


def _claimed(state: State, entry: Entry) -> State:
    if state.status is not Status.WAITING:
        raise NotAllowed(f"it is {state.status}, not waiting")
    if state.stop_requested_by:
        raise NotAllowed("its stop was requested")
    number = len(state.attempts) + 1
    if entry.data["attempt"] != number:
        raise NotAllowed(f"the next attempt is {number}")
    epoch = state.seq + 1
    attempt = Attempt(
        number=number,
        epoch=epoch,
        claimed_seq=epoch,
        worker=entry.by,
        host=entry.data["host"],
        gpus=tuple(entry.data.get("gpus", ())),
        claimed_at=entry.at,
        log_epochs=((epoch, 0),),
        claimed_stored_at=entry.stored_at,
        owned_stored_at=entry.stored_at,
    )
    return dataclasses.replace(state, status=Status.PREPARING, reason="", attempts=(*state.attempts, attempt))


def _owned(state: State, entry: Entry) -> Attempt:
    """The live attempt, if the entry was written under its present epoch."""
    if state.live is None:
        raise NotAllowed("no attempt is alive")
    if entry.data.get("epoch") != state.live.epoch:
        raise NotAllowed(f"epoch {entry.data.get('epoch')} is not the owner's, {state.live.epoch}")
    return state.live


def _with_live(state: State, attempt: Attempt, **changes: Any) -> State:
    return dataclasses.replace(state, attempts=(*state.attempts[:-1], attempt), **changes)


def _adopted(state: State, entry: Entry) -> State:
    live = state.live
    if live is None or entry.data["attempt"] != live.number:
        raise NotAllowed("that attempt is not alive")
    epoch = state.seq + 1
    adopted = dataclasses.replace(
        live,
        epoch=epoch,
        worker=entry.by,
        host=entry.data["host"],
        log_epochs=(*live.log_epochs, (epoch, entry.data["log_offset"])),
        owned_stored_at=entry.stored_at,
    )
    return _with_live(state, adopted)


def _started(state: State, entry: Entry) -> State:
    live = _owned(state, entry)
    if state.status is not Status.PREPARING:
        raise NotAllowed(f"it is {state.status}, not preparing")
    running = dataclasses.replace(live, status=Status.RUNNING, started_at=entry.at)
    return _with_live(state, running, status=Status.RUNNING, started_at=state.started_at or entry.at)


def _released(state: State, entry: Entry) -> State:
    live = _owned(state, entry)
    release_class, reason = entry.data["class"], entry.data["reason"]
    over = dataclasses.replace(
        live,
        status=Status.FAILED if release_class == RETRY else Status.WAITING,
        over=RETRY if release_class == RETRY else "released",
        release_class=release_class,
        reason=reason,
        exit_code=entry.data.get("exit_code"),
        finished_at=entry.at,
        released_stored_at=entry.stored_at,
    )
    # A start that was not seen to succeed may have: `began` says that something of the script was found.
    began = live.started_at is not None or release_class == RETRY or entry.data.get("began", False)
    early = () if began else ((live.host, entry.stored_at),)
    return _with_live(state, over, status=Status.WAITING, reason=reason, early_releases=(*state.early_releases, *early))


def _lost(state: State, entry: Entry) -> State:
    live = state.live
    if live is None or entry.data["attempt"] != live.number:
        raise NotAllowed("that attempt is not alive")
    if "epoch" in entry.data:
        _owned(state, entry)  # its owner says so, and not somebody who looked
    reason = entry.data["reason"]
    over = dataclasses.replace(live, status=Status.FAILED, over="lost", reason=reason, finished_at=entry.at)
    return _with_live(state, over, status=Status.WAITING, reason=reason)


def _stop_requested(state: State, entry: Entry) -> State:
    if state.stop_requested_by:
        raise NotAllowed("its stop was requested already")
    return dataclasses.replace(state, stop_requested_by=entry.by)


def _ended(status: Status) -> Callable[[State, Entry], State]:
    def apply(state: State, entry: Entry) -> State:
        reason, exit_code = entry.data.get("reason", ""), entry.data.get("exit_code")
        changes: dict[str, Any] = {
            "status": status,
            "reason": reason,
            "exit_code": exit_code,
            "finished_at": entry.at,
            "artifacts": tuple(entry.data.get("artifacts", ())),
        }
        if state.live is None and "epoch" not in entry.data:
            return dataclasses.replace(state, **changes)
        over = dataclasses.replace(
            _owned(state, entry), status=status, over="ended", reason=reason, exit_code=exit_code, finished_at=entry.at
        )
        return _with_live(state, over, **changes)

    return apply


def _finished(state: State, entry: Entry) -> State:
    if state.status is not Status.RUNNING:
        raise NotAllowed(f"it is {state.status}, not running")
    return _ended(Status.FINISHED)(state, entry)


def _expired(state: State, entry: Entry) -> State:
    if state.attempts or state.live:
        raise NotAllowed("it was claimed before its lifetime ended")
    return _ended(Status.EXPIRED)(state, entry)


def _removed(state: State, entry: Entry) -> State:
    if not state.status.terminal:
        raise NotAllowed(f"it is {state.status}: only what has ended can be removed")
    return dataclasses.replace(state, removed=True)


_FOLDS: Mapping[Kind, Callable[[State, Entry], State]] = {
    Kind.SUBMITTED: _submitted,
    Kind.QUEUED: _queued,
    Kind.CLAIMED: _claimed,
    Kind.ADOPTED: _adopted,
    Kind.STARTED: _started,
    Kind.RELEASED: _released,
    Kind.LOST: _lost,
    Kind.STOP_REQUESTED: _stop_requested,
    Kind.FINISHED: _finished,
    Kind.FAILED: _ended(Status.FAILED),
    Kind.STOPPED: _ended(Status.STOPPED),
    Kind.EXPIRED: _expired,
    Kind.REMOVED: _removed,
}

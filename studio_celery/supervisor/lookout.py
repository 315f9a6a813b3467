"""What this worker sees besides the journal: the store's clock, its own host, its own threads."""

from __future__ import annotations

from studio_celery.experiment import Attempt
from studio_celery.journal import Observation, State, releases_by, sign_of_life
from studio_celery.runtimes.contract import Handle, Runtime, find_attempt
from studio_celery.store import Store
from studio_celery.supervisor.charge import Charge
from studio_celery.supervisor.identity import Identity
from studio_celery.supervisor.pulse import Pulse


class Lookout:
    """Makes the observations that decisions go by."""

    def __init__(self, store: Store, runtime: Runtime, identity: Identity, pulse: Pulse, charge: Charge) -> None:
        self._store = store
        self._runtime = runtime
        self._identity = identity
        self._pulse = pulse
        self._charge = charge

    def observe(self, state: State, *, sole: bool) -> Observation:
        """For a delivery. `sole`: no other thread of this process has the experiment in hand.

        The clock is read before the heartbeat, so that a heartbeat looks younger rather than older than it is.
        """
        now = self._pulse.beat()
        live = state.live
        age = max(0.0, now - state.submitted_stored_at)
        if live is None:
            releases, latest = releases_by(state, self._identity.id)
            since = max(0.0, now - latest) if releases else 0.0
            over = state.attempts[-1].released_stored_at if state.attempts else 0.0
            return Observation(
                age_seconds=age,
                ours=not sole,
                releases_here=releases,
                since_release_seconds=since,
                since_failure_seconds=max(0.0, now - over),
            )
        assert state.experiment is not None
        sign = sign_of_life(live, self._store.heartbeat_modified(state.experiment.id, live.number))
        return Observation(
            # Who was away itself, or has just begun, waits the whole patience anew: the owner may have been away, too.
            heartbeat_age_seconds=max(0.0, now - max(sign, self._pulse.steady_since)),
            run_seconds=max(0.0, sign - live.claimed_stored_at),
            age_seconds=age,
            ours=not sole,
            mine=sole and self._is_mine(live),
            owner_gone=self._identity.is_gone(live.worker, live.host),
            here=find_attempt(self._runtime, state.experiment.id, live.number) is not None,
        )

    def observe_found(self, state: State, handle: Handle, *, lingers: bool) -> Observation:
        """For an attempt that is on this host, whoever had it last."""
        if handle.experiment_id in self._charge:
            return Observation(ours=True)
        if handle.attempt > len(state.attempts):  # the journal was set back: only the handle knows
            gone = self._identity.is_gone(handle.worker, self._identity.host)
            return Observation(here=True, owner_gone=gone)
        last = state.attempts[handle.attempt - 1]
        gone = self._identity.is_gone(last.worker, last.host)
        return Observation(here=True, mine=self._is_mine(last), owner_gone=gone, lingers=lingers)

    def _is_mine(self, attempt: Attempt) -> bool:
        return attempt.worker == self._identity.id

"""The supervisor of one worker process: what to do with a delivery, what to look after, how to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from studio_celery.errors import RuntimeFailure, StoreError, UnknownExperiment
from studio_celery.experiment import Experiment, NewerSchema
from studio_celery.gpus import Cards, Reservation
from studio_celery.journal import (
    UNANSWERED,
    Action,
    Adopt,
    Claim,
    DeclareLost,
    Defer,
    End,
    Enqueue,
    GiveBack,
    Kind,
    NotAllowed,
    Observation,
    Return,
    Rules,
    decide,
    end_without_attempt,
    leaves_to_others,
)
from studio_celery.record import to_record
from studio_celery.runtimes.contract import Handle, Runtime, find_attempt
from studio_celery.settings import Settings, make_home
from studio_celery.store import Journal, Store
from studio_celery.supervisor.attempt import AttemptRun
from studio_celery.supervisor.charge import Charge
from studio_celery.supervisor.deferrals import Deferrals
from studio_celery.supervisor.fitness import Fitness
from studio_celery.supervisor.identity import Identity
from studio_celery.supervisor.ledger import Detached
from studio_celery.supervisor.lookout import Lookout
from studio_celery.supervisor.outcome import Deferred, Ended
from studio_celery.supervisor.places import Places, concurrency_of
from studio_celery.supervisor.pulse import Pulse
from studio_celery.supervisor.spool import nothing_freed
from studio_celery.supervisor.takeover import TakeOver

logger = logging.getLogger(__name__)


class Supervisor:
    """Looks after experiments in one worker process; every method may be called from any thread."""

    def __init__(self, store: Store, runtime: Runtime, settings: Settings, *, queues: tuple[str, ...] = ()) -> None:
        self.store = store
        self.runtime = runtime
        self.settings = settings
        make_home(settings.home)
        self.identity = Identity(settings.home)
        self.cards = Cards(settings.gpus, settings.home)
        self.places = Places(concurrency_of(settings, self.cards))
        self.pulse = Pulse(store, self.identity, self._facts, settings.heartbeat_seconds)
        self.queues = queues
        #: Attempts that were looked after to their end.
        self.looked_after = 0
        self._idle_since = time.monotonic()
        self._rules = Rules.from_settings(settings)
        self._running: dict[str, AttemptRun] = {}
        self._deferrals = Deferrals(settings, self.pulse.beat)
        self.fitness = Fitness(runtime, self.cards, settings)
        self.charge = Charge()
        self.lookout = Lookout(store, runtime, self.identity, self.pulse, self.charge)
        self._detaching = threading.Event()
        self._takeover = TakeOver(self, settings.patience_floor_seconds)

    # -- one delivery ----------------------------------------------------------------------------------------------

    def handle(self, experiment_id: str, store_url: str | None = None, digest: str | None = None) -> Ended | Deferred:
        """Look after the experiment for this delivery.

        `store_url` is where the submitter recorded it, `digest` that of what was recorded. `UnknownExperiment` if the
        store has none of that id, or another one.
        """
        try:
            return self._handle(experiment_id, store_url or self.store.url, digest)
        except StoreError as exc:
            logger.warning("Experiment %s is deferred: %s", experiment_id, exc)
            return Deferred(self.settings.defer_seconds, str(exc))
        except (NewerSchema, RuntimeFailure) as exc:
            return self._deferrals.defer(experiment_id, str(exc))
        except (Detached, UnknownExperiment):
            raise
        except Exception as exc:
            logger.exception("Experiment %s is deferred.", experiment_id)
            return self._deferrals.defer(experiment_id, f"internal error: {type(exc).__name__}: {exc}")

    def _handle(self, experiment_id: str, store_url: str, digest: str | None) -> Ended | Deferred:
        journal = self.store.journal(experiment_id)
        if journal.refresh().experiment is None and store_url != self.store.url:
            why = f"it is recorded in {store_url}, this worker reads {self.store.url}: set STUDIO_STORE alike on both"
            return self._deferrals.defer(experiment_id, why)
        if journal.state.experiment is None:
            raise UnknownExperiment(f"The store {self.store.url} has no experiment {experiment_id}.")
        if digest is not None and digest != journal.state.digest:
            raise UnknownExperiment(
                f"The message is of another experiment {experiment_id} than the store {self.store.url} has: "
                "`studio requeue` publishes what is in the store."
            )
        with self.charge.take(experiment_id) as sole:
            while True:
                seen = self.lookout.observe(journal.refresh(), sole=sole)
                action = decide(journal.state, seen, self._rules)
                if self._detaching.is_set() and not isinstance(action, Return):
                    raise Detached
                outcome = self._act(journal, action)
                if outcome is not None:
                    return outcome

    def _act(self, journal: Journal, action: Action) -> Ended | Deferred | None:
        """Do what was decided; None to decide again."""
        match action:
            case Return():
                self._deferrals.forget(journal.experiment_id)
                return Ended(to_record(journal.state))
            case Defer(seconds, why):
                return Deferred(min(seconds, 600.0), why)
            case Enqueue():
                _try(journal, Kind.QUEUED, self.identity.id)
            case Claim(number):
                return self._claim(journal, number)
            case Adopt():
                self.adopt(journal)
            case DeclareLost(number, reason):
                _try(journal, Kind.LOST, self.identity.id, attempt=number, reason=reason)
            case GiveBack(number, reason):
                data = {"class": UNANSWERED, "reason": reason, "epoch": journal.state.owner_epoch}
                _try(journal, Kind.RELEASED, self.identity.id, **data)
            case End(kind, reason):
                _try(journal, kind, self.identity.id, reason=reason)
        return None

    # -- claiming --------------------------------------------------------------------------------------------------

    def _claim(self, journal: Journal, number: int) -> Deferred | None:
        experiment = journal.state.experiment
        assert experiment is not None
        if refusal := self.fitness.refuses(experiment):
            return self._deferrals.defer(experiment.id, refusal)
        unfit, just_now = self.fitness.look()
        if unfit:
            deferred = self._deferrals.defer(experiment.id, unfit)
            # Whoever takes nothing more gives back what it has in hand at once.
            return Deferred(0.0, unfit) if just_now else deferred
        if not self.places.take():
            return self._deferrals.defer(
                experiment.id, f"all {self.places.concurrency} places of this worker are taken"
            )
        try:
            return self._claim_in_place(journal, experiment, number)
        finally:
            self.places.give_back()

    def _claim_in_place(self, journal: Journal, experiment: Experiment, number: int) -> Deferred | None:
        wanted, claimed = experiment.resources.gpus, False
        cards = None
        try:
            cards = self.cards.reserve(wanted, self._cards_in_use) if wanted else None
            if wanted and cards is None:
                return self._deferrals.defer(experiment.id, f"needs {wanted} cards, fewer are free now")
            data = {"attempt": number, "host": self.identity.host, "gpus": list(cards.ids) if cards else []}
            claimed = _try(journal, Kind.CLAIMED, self.identity.id, **data)
            if claimed:
                self._deferrals.forget(experiment.id)
                self._look_after(journal, cards, None)
        finally:
            if not claimed:
                self.places.take_back()
            if cards:
                cards.release()
        return self._after_release(journal)

    def _after_release(self, journal: Journal) -> Deferred | None:
        """Give back at once, for others, what was released here; None if it was not."""
        state = journal.refresh()
        if not leaves_to_others(state, self.identity.id) or end_without_attempt(state, Observation(), self._rules):
            return None
        return Deferred(0.0, state.attempts[-1].reason)

    def _cards_in_use(self) -> set[str]:
        return {card for handle in self.runtime.find() for card in handle.cards}

    def _look_after(self, journal: Journal, cards: Reservation | None, handle: Handle | None) -> None:
        run = AttemptRun(
            store=self.store,
            runtime=self.runtime,
            settings=self.settings,
            journal=journal,
            worker_id=self.identity.id,
            detaching=self._detaching,
            cards=cards,
        )
        self._running[journal.experiment_id] = run
        try:
            run.run(handle)
            self.looked_after += 1
        finally:
            del self._running[journal.experiment_id]
            self._idle_since = time.monotonic()

    # -- adopting --------------------------------------------------------------------------------------------------

    def adopt(self, journal: Journal) -> None:
        """Take over the live attempt, if it is on this host, and look after it to its end.

        Only for the thread that has the experiment in hand.
        """
        live = journal.state.live
        handle = find_attempt(self.runtime, journal.experiment_id, live.number) if live else None
        if handle is None or live is None:
            return
        number = live.number
        with nothing_freed(handle.directory):
            offset = self.store.log_reader(journal.experiment_id, live).stored(live)
            data = {"attempt": number, "host": self.identity.host, "log_offset": offset}
            if not _try(journal, Kind.ADOPTED, self.identity.id, **data):
                return
        logger.info("Experiment %s: attempt %d is adopted at byte %d of its log.", handle.experiment_id, number, offset)
        cards = self.cards.reserve_exactly(handle.cards) if handle.cards else None
        self.places.take_anyway()
        try:
            self._look_after(journal, cards, handle)
        finally:
            self.places.give_back()
            if cards:
                cards.release()

    def start(self) -> None:
        """Begin the worker's heartbeat, adopt what a former worker of this host left running, stop what nobody owns."""
        self.pulse.start()
        self._takeover.start()

    # -- stopping --------------------------------------------------------------------------------------------------

    @property
    def running(self) -> list[str]:
        """Ids of the experiments that this process looks after."""
        return sorted(dict(self._running))

    @property
    def idle_seconds(self) -> float:
        """Time since the last experiment here, 0 while one runs."""
        return 0.0 if self._running else time.monotonic() - self._idle_since

    def detach(self) -> list[str]:
        """Leave everything running and give all back; the ids of what runs on."""
        running = self.running
        self._detaching.set()
        return running

    def close(self) -> None:
        """Wait for what was adopted, unless detached, and free this worker's lock: the next worker adopts at once."""
        self.fitness.close()
        self._takeover.wait()
        self.pulse.stop()
        self.identity.close()

    def _facts(self) -> Mapping[str, Any]:
        return {
            "host": self.identity.host,
            "queues": list(self.queues),
            "cards": list(self.cards.ids),
            "concurrency": self.places.concurrency,
            "running": self.running,
            "cannot_take": self._deferrals.notes(),
            "takes_nothing": self.fitness.why,
            "runtime": self.runtime.name,
        }


def _try(journal: Journal, kind: Kind, by: str, **data: Any) -> bool:
    """Append once; False if somebody else decided first, which the caller finds out by deciding again."""
    try:
        return journal.append(kind, by, **data) is not None
    except NotAllowed:
        journal.refresh()
        return False

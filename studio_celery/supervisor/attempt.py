"""One attempt, looked after from the claim, or from its adoption, to the entry that ends it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime

from studio_celery.errors import RuntimeFailure, StoreError, WorkspaceError
from studio_celery.experiment import Experiment
from studio_celery.gpus import Reservation, lost
from studio_celery.journal import Kind
from studio_celery.runtimes.contract import Cancellation, Exit, Handle, Launch, Runtime
from studio_celery.settings import Settings
from studio_celery.store import Journal, LogWriter, Store
from studio_celery.supervisor.copier import Copier
from studio_celery.supervisor.doorway import doorway
from studio_celery.supervisor.keepsakes import Kept, collect, keep
from studio_celery.supervisor.ledger import Detached, Ledger
from studio_celery.supervisor.premises import Premises
from studio_celery.supervisor.preparation import Preparation
from studio_celery.supervisor.spool import Spool
from studio_celery.supervisor.verdict import Verdict, judge, released
from studio_celery.supervisor.watch import Watch

logger = logging.getLogger(__name__)

#: The runtime is asked every so many looks at the directory; its `exit.json` is seen at every look.
LOOKS_PER_POLL = 10


class AttemptRun:
    """The owner's side of one attempt. `run` returns when the attempt is over, or raises `Detached`."""

    def __init__(
        self,
        *,
        store: Store,
        runtime: Runtime,
        settings: Settings,
        journal: Journal,
        worker_id: str,
        detaching: threading.Event,
        cards: Reservation | None = None,
    ) -> None:
        live, experiment = journal.state.live, journal.state.experiment
        assert live is not None
        assert experiment is not None
        self.attempt = live
        self.experiment: Experiment = experiment
        self.cards = cards
        self._store = store
        self._runtime = runtime
        self._settings = settings
        self._detaching = detaching
        self._ledger = Ledger(
            journal, live, worker_id=worker_id, detaching=detaching, interval_seconds=settings.heartbeat_seconds
        )
        self._premises = Premises(
            runtime, settings.home, experiment.id, live.number, grace_seconds=settings.stop_grace_seconds
        )
        self._watch = Watch(
            store,
            experiment.id,
            attempt=live.number,
            epoch=live.epoch,
            interval_seconds=settings.heartbeat_seconds,
        )

    def run(self, handle: Handle | None = None) -> None:
        """Prepare and start it (unless a `handle` is adopted), follow it, end it."""
        with self._watch:
            try:
                if handle is None:
                    handle = self._begin()
                elif self.attempt.started_at is None:
                    self._note_start(handle)
                if handle is not None:
                    self._finish(handle, self._follow(handle))
            except Detached:
                raise
            except Exception as exc:
                logger.exception("Experiment %s: attempt %d is released.", self.experiment.id, self.attempt.number)
                self._abandon(f"internal error: {type(exc).__name__}: {exc}")

    def _abandon(self, reason: str) -> None:
        """Give up an attempt because of a defect of ours: nothing of it runs on, and others may try."""
        self._put_down()
        self._append(released("internal", reason))
        self._clear(None)

    # -- before the script -----------------------------------------------------------------------------------------

    def _begin(self) -> Handle | None:
        """The started attempt; None if it came to an end before."""
        try:
            launch = self._prepare()
            handle = self._ledger.until_stored(lambda: self._start(launch))
        except Cancellation:
            self._give_up()
        except RuntimeFailure as failure:
            self._failed_to_start(failure)
        except WorkspaceError as exc:
            self._end(Verdict(Kind.FAILED, {"reason": str(exc)}))
        except StoreError as exc:
            self._end(released("store", str(exc)))
        except OSError as exc:
            self._end(released("disk", f"the worker's disk: {exc.strerror or exc}"))
        else:
            self._note_start(handle)
            return handle
        return None

    def _prepare(self) -> Launch:
        preparation = Preparation(
            store=self._store,
            runtime=self._runtime,
            experiment=self.experiment,
            attempt=self.attempt,
            home=self._settings.home,
            directory=self._premises.directory,
            cards=self.cards.ids if self.cards else (),
            spool_bytes=self._settings.log_spool_bytes,
            hold_seconds=self._settings.log_hold_seconds,
        )
        return preparation.run(self._watch.tell, self._cancelled)

    def _start(self, launch: Launch) -> Handle:
        """Start it, if the journal says right now that it is wanted; `StoreError` if the journal cannot be read."""
        with doorway(self._settings.home, self.experiment.id, self._cancelled):
            self._watch.ask()
            if self._cancelled():
                raise Cancellation
            self._premises.put_down_former()
            self._watch.tell("running")
            return self._premises.start(launch)

    def _note_start(self, handle: Handle) -> None:
        """Record the start. The script runs already, so whatever the store answers, it is looked after from here on."""
        self._ledger.note_start()
        logger.info("Experiment %s: attempt %d started (%s).", self.experiment.id, self.attempt.number, handle.ref[:12])

    def _cancelled(self) -> bool:
        return self._watch.unwanted or self._detaching.is_set()

    def _give_up(self) -> None:
        if self._watch.stop_requested_by:
            self._end(Verdict(Kind.STOPPED, {"reason": f"stopped by {self._watch.stop_requested_by}"}))
        elif self._detaching.is_set() and not self._watch.superseded:
            self._end(released("worker", "the worker was stopped before the script had started"))
            raise Detached
        self._clear(None)

    def _failed_to_start(self, failure: RuntimeFailure) -> None:
        logger.warning("Experiment %s: attempt %d: %s", self.experiment.id, self.attempt.number, failure)
        if failure.release_class is None:
            self._end(Verdict(Kind.FAILED, {"reason": str(failure)}))
        else:
            self._end(released(failure.release_class, str(failure)))

    def _end(self, verdict: Verdict) -> None:
        """End an attempt whose script was not seen to run; what was written by then is kept as its log."""
        if self._premises.asked:  # a start that seemed to fail may have succeeded after all
            self._put_down()
        writer = self._log_writer()
        self._ledger.until_stored(lambda: writer.copy(self._premises.directory / "io" / "log"))
        self._append(verdict)
        self._clear(None)

    def _put_down(self) -> None:
        """Until nothing of it lives, or it is another owner's: while the engine is away, nobody else may begin it."""
        self._until(self._premises.put_down)

    def _until(self, done: Callable[[], bool]) -> None:
        while not (self._handed_over or done()):
            if self._detaching.wait(self._settings.poll_seconds):
                raise Detached

    @property
    def _handed_over(self) -> bool:
        """Whether the attempt, and all that it has on this host, went to another owner."""
        return self._watch.handed_over or self._ledger.handed_over

    # -- while it runs ---------------------------------------------------------------------------------------------

    def _follow(self, handle: Handle) -> Verdict | None:
        """Look after it until its end; None if it is no longer ours."""
        with self._copier(handle) as copier:
            return self._follow_copied(handle, copier)

    def _follow_copied(self, handle: Handle, copier: Copier) -> Verdict | None:
        looks, too_long = 0, False
        deadline = self._deadline()
        while True:
            copier.check()
            exit = self._poll(handle) if self._due(handle, looks) else None
            too_long = too_long or (exit is None and time.time() > deadline)
            if self._handed_over:
                return None
            if exit is None and (self._watch.unwanted or too_long):
                self._watch.tell("stopping")
                exit = self._stop(handle)
            if exit is not None and self._watch.superseded:
                return None
            if exit is not None:
                if not self._ledger.read_as_owner():
                    return None
                self._wait_for_log(copier)
                return judge(exit, self._ledger.state, ran_too_long=too_long, lost_cards=lost(handle.cards))
            looks += 1
            if self._detaching.wait(self._settings.poll_seconds):
                raise Detached

    def _poll(self, handle: Handle) -> Exit | None:
        """How it ended; an engine that does not answer is asked again, as the script may well run on without it."""
        try:
            return self._runtime.poll(handle)
        except RuntimeFailure as exc:
            logger.warning("Experiment %s: %s It is asked again.", self.experiment.id, exc)
            return None

    def _stop(self, handle: Handle) -> Exit | None:
        """Stop it, as far as the engine answers; the loop comes back until it has ended."""
        try:
            self._runtime.stop(handle, self._settings.stop_grace_seconds)
            return self._runtime.poll(handle)
        except RuntimeFailure as exc:
            logger.warning("Experiment %s: %s It is stopped later.", self.experiment.id, exc)
            return None

    def _due(self, handle: Handle, looks: int) -> bool:
        return looks % LOOKS_PER_POLL == 0 or (handle.directory / "io" / "exit.json").exists() or self._watch.unwanted

    def _deadline(self) -> float:
        limit = self.experiment.max_duration_seconds
        started = self._ledger.state.live.started_at if self._ledger.state.live else None
        if limit is None:
            return float("inf")
        begin = datetime.fromisoformat(started).timestamp() if started else time.time()
        return begin + limit

    def _log_writer(self) -> LogWriter:
        epoch, offset = self.attempt.log_epochs[-1]
        return self._store.log_writer(self.experiment.id, self.attempt.number, epoch, offset)

    def _copier(self, handle: Handle) -> Copier:
        return Copier(
            self._log_writer(),
            handle.log,
            Spool(handle.directory, self._store.journal(self.experiment.id), self.attempt),
            name=self.experiment.id,
            look_seconds=self._settings.log_seconds,
            retry_seconds=self._settings.heartbeat_seconds,
        )

    def _wait_for_log(self, copier: Copier) -> None:
        """Until the store has all of it: an end without it would hide what it said last."""
        copied = copier.finish()
        while not copied.wait(self._settings.poll_seconds):
            if self._detaching.is_set():
                raise Detached
        copier.check()

    # -- the end ---------------------------------------------------------------------------------------------------

    def _finish(self, handle: Handle, verdict: Verdict | None) -> None:
        if verdict is not None:
            if verdict.ends:
                # Its end is what a file says that the script can write, too: what lives on could exchange its files.
                self._until(lambda: self._premises.silence(handle))
                self._watch.tell("uploading")
                kept = self._keep(handle)
                verdict.data["artifacts"] = kept.summary
                if kept.left_out:
                    verdict.data["left_out"] = kept.left_out
            self._append(verdict)
        self._clear(handle)

    def _keep(self, handle: Handle) -> Kept:
        root = handle.directory
        return keep(
            self._store,
            self.experiment.id,
            self.attempt.number,
            collect(root / "artifacts", root / "workspace", self.experiment.captures),
            until_stored=self._ledger.until_stored,
        )

    def _append(self, verdict: Verdict) -> None:
        if self._premises.began and verdict.kind is Kind.RELEASED:
            verdict.data["began"] = True
        self._ledger.append(verdict)

    def _clear(self, handle: Handle | None) -> None:
        if not self._handed_over:
            self._premises.clear(handle)

"""From the store to the queue again: after the broker's data is gone, a purge, or half the retention of a queue.

The store is the truth. What it holds as not ended has its message sent once more, the same that was sent first, so that
links, chains and chords go on. One message too many does no harm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from studio_celery.catalog import Catalog
from studio_celery.errors import CannotRequeue, MayNotPublish, MessageLost
from studio_celery.journal import Kind, refuses_requeue
from studio_celery.store import Journal, Store
from studio_celery.submission.broker import Broker
from studio_celery.submission.message import Message


@dataclass(frozen=True)
class Requeued:
    """What became of one experiment of many."""

    id: str
    #: Why its message was not sent, a sentence; None if it was.
    problem: str | None = None


class Requeuer:
    """Sends kept messages, in somebody's name."""

    def __init__(self, broker: Broker, store: Store, by: str) -> None:
        self._broker = broker
        self._store = store
        self._by = by

    def requeue(self, journal: Journal, reason: str) -> None:
        """Send the message of an experiment whose journal was read, and record that.

        Raises:
            CannotRequeue: It has ended, or was never queued.
            MessageLost: Its message is not in the store.
            BrokerError: The broker does not answer, or refuses.
        """
        refusal = refuses_requeue(journal.state)
        experiment = journal.state.experiment
        if refusal or experiment is None:
            raise CannotRequeue(f"{journal.experiment_id} {refusal}.")
        self._broker.publish_again(self._message(experiment.id), experiment.queue)
        journal.decide(Kind.QUEUED, self._by, again=True, reason=reason)

    def requeue_all(self, catalog: Catalog, reason: str, queue: str | None) -> Iterator[Requeued]:
        """The same for those that have not ended; one that cannot be read or sent costs none of the others."""
        for each in catalog.all():
            experiment = each.state.experiment
            elsewhere = experiment and queue not in (None, experiment.queue)
            if each.journal is None or elsewhere or refuses_requeue(each.journal.refresh()):
                continue
            try:
                self.requeue(each.journal, reason)
            except (MessageLost, MayNotPublish) as exc:
                yield Requeued(each.id, str(exc) if each.id in str(exc) else f"{each.id}: {exc}")
            else:
                yield Requeued(each.id)
        yield from (Requeued(key, f"{key}: {problem}") for key, problem in catalog.problems.items())

    def _message(self, experiment_id: str) -> Message:
        try:
            return Message.from_json(self._store.message(experiment_id))
        except KeyError as exc:
            raise MessageLost(
                f"The store {self._store.url} has no message of {experiment_id}: "
                "`studio stop` ends it, `studio rerun` submits it as a new experiment."
            ) from exc

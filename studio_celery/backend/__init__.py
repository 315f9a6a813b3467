"""Celery's result backend over the store.

States and results of experiments are derived from their journals, so they are right whoever ran them, and nothing that
Celery does can change them: forgetting or expiring a result leaves the experiment alone. Those of ordinary tasks,
groups and chords are kept under `celery/`. A chord is joined by whoever returns its last part; nothing polls.

It is this application's default. Any other takes it by its name and a store:

    Celery("mine", backend="studio_celery.backend:StoreBackend+gs://bucket/prefix")
    Celery("mine", backend="studio_celery.backend:StoreBackend+file:///srv/results")

Celery's own settings hold (`result_expires`, `result_serializer`, `result_compression`, …). Of its own it takes from
`result_backend_transport_options`:

    poll_floor_seconds     first pause of a `.get()` between two looks (0.05)
    poll_ceiling_seconds   longest one (5); in between it is a tenth of the time already waited
    late_message_seconds   how long a chord is remembered after its end, because messages may come late (31 days)

Guarantee: a chord's body is published once, or, when the worker that does it dies at that moment, once more with the
same id as soon as its message is delivered again.
"""

from studio_celery.backend.results import StoreBackend

__all__ = ["StoreBackend"]

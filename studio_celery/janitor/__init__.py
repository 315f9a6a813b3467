"""Clean-up on a worker's host: what killed workers left behind, caches over their limit, ends that are due.

Nothing is touched that is not ours: only directories under `STUDIO_HOME`, containers with its label, workers and
experiments of the store. Nothing is touched that somebody works on: a worker that lives holds its lock file, whoever
makes or uses something in the cache holds its lock, an attempt that was started is what the runtime finds. Any number
of janitors at once do no harm. Blobs of the store are not the janitor's: see `studio_celery.garbage`.
"""

from studio_celery.janitor.janitor import Janitor

__all__ = ["Janitor"]

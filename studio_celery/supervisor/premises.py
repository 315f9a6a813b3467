"""What an attempt has on this host: a directory, and something that runs; how both go."""

from __future__ import annotations

import logging
from pathlib import Path

from studio_celery.errors import RuntimeFailure
from studio_celery.runtimes import directory
from studio_celery.runtimes.contract import Handle, Launch, Runtime, find_attempt

logger = logging.getLogger(__name__)


class Premises:
    """Of one attempt; its owner alone may use them."""

    def __init__(self, runtime: Runtime, home: Path, experiment_id: str, attempt: int, *, grace_seconds: float) -> None:
        self.directory = home / "run" / experiment_id / str(attempt)
        #: Something of the attempt was found here, whether or not its start was seen to succeed.
        self.began = False
        #: The runtime was asked to start it; from then on the runtime alone knows whether anything of it lives.
        self.asked = False
        self._runtime = runtime
        self._experiment_id = experiment_id
        self._attempt = attempt
        self._grace_seconds = grace_seconds

    def start(self, launch: Launch) -> Handle:
        """Start it; after any error something of it may live nevertheless."""
        self.asked = True
        return self._runtime.start(launch)

    def put_down(self) -> bool:
        """See to it that nothing of this attempt lives, whoever has its handle; False if the engine is away."""
        try:
            if handle := find_attempt(self._runtime, self._experiment_id, self._attempt):
                self.began = True
                self._end(handle)
        except RuntimeFailure as exc:
            logger.warning("Experiment %s: %s", self._experiment_id, exc)
            return False
        return True

    def silence(self, handle: Handle) -> bool:
        """See to it that nothing of it runs, though it said that it has ended; False if the engine is away."""
        try:
            self._runtime.stop(handle, self._grace_seconds)
        except RuntimeFailure as exc:
            logger.warning("Experiment %s: %s Its files are kept later.", self._experiment_id, exc)
            return False
        return True

    def put_down_former(self) -> None:
        """End what former attempts left here: their owner may be cut off, and not know that it is none."""
        for handle in self._runtime.find():
            if handle.experiment_id == self._experiment_id and handle.attempt != self._attempt:
                logger.warning("Experiment %s: attempt %d was still here.", self._experiment_id, handle.attempt)
                self._end(handle)
                remove_directory(handle.directory)

    def _end(self, handle: Handle) -> None:
        self._runtime.stop(handle, self._grace_seconds)
        self._runtime.remove(handle)

    def clear(self, handle: Handle | None) -> None:
        """Forget what ran, and remove the directory; what an engine that is away still knows, the janitor removes."""
        try:
            if handle is not None:
                self._runtime.remove(handle)
        except RuntimeFailure as exc:
            logger.warning("Experiment %s: attempt %d is removed later: %s", self._experiment_id, self._attempt, exc)
            return
        remove_directory(self.directory)


def remove_directory(path: Path) -> None:
    """Remove an attempt's directory, and that of its experiment if it was the last; what cannot go is said."""
    try:
        directory.remove(path)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    except FileNotFoundError:
        logger.debug("%s was removed already.", path)
    except OSError as exc:
        logger.warning("%s stays behind: %s.", path, exc.strerror)

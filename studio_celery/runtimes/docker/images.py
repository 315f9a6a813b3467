"""Images: what is on this host, and how the rest is pulled."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from studio_celery.errors import EngineUnavailable, ImageNotFound, RuntimeFailure
from studio_celery.runtimes.contract import Cancellation, Cancelled, Progress
from studio_celery.runtimes.docker.engine import Engine, Refused
from studio_celery.runtimes.docker.options import DockerOptions

#: How often it is asked whether the image is still wanted, in seconds.
LOOK_SECONDS = 0.5

#: Least time between two lines of progress, in seconds.
PROGRESS_SECONDS = 2.0

#: How a registry says that there is no such image for us. "no such host" is the name service's word that no such
#: registry exists; one that does not answer says otherwise, and is another worker's chance.
ABSENT = re.compile(
    r"not found|does not exist|manifest unknown|name unknown|denied|unauthorized|authentication required|forbidden"
    r"|no matching manifest|invalid reference|no such host|must be lowercase|repository name",
    re.IGNORECASE,
)


class RegistryUnavailable(EngineUnavailable):
    """The registry cannot be reached, or is too slow."""


@dataclass(frozen=True)
class Image:
    """An image on this host."""

    name: str
    id: str
    variables: Mapping[str, str]


class Images:
    """The images of one engine."""

    def __init__(self, engine: Engine, options: DockerOptions) -> None:
        self._engine = engine
        self._options = options

    def find(self, name: str) -> Image | None:
        """The image, if it is on this host."""
        try:
            facts = self._engine.image(name)
        except Refused as exc:
            raise _failure(name, exc) from exc
        if facts is None:
            return None
        pairs = ((facts.get("Config") or {}).get("Env")) or []
        return Image(name, facts["Id"], dict(pair.partition("=")[::2] for pair in pairs))

    def ensure(self, name: str, progress: Progress, cancelled: Cancelled) -> Image:
        """The image, pulled if it is missing."""
        image = self.find(name)
        if image is None:
            progress(f"pulling {name}")
            self._pull(name, progress, cancelled)
            image = self.find(name)
        if image is None:
            raise RuntimeFailure(f"The image {name} was pulled, and is gone again: look what removes images here.")
        return image

    def _pull(self, name: str, progress: Progress, cancelled: Cancelled) -> None:
        """Pull in a thread, because the engine may be silent for minutes and somebody may not want it any more."""
        pull = _Pull(self._engine, name, self._options.pull_silence_seconds)
        deadline, next_line = time.monotonic() + self._options.pull_limit_seconds, 0.0
        with pull:
            while not pull.finished(LOOK_SECONDS):
                if cancelled():
                    raise Cancellation
                if time.monotonic() > deadline:
                    limit = self._options.pull_limit_seconds
                    raise RegistryUnavailable(f"Pulling {name} took longer than {limit:.0f} s: its registry is slow.")
                if pull.line and time.monotonic() >= next_line:
                    progress(f"pulling {name}: {pull.line}")
                    next_line = time.monotonic() + PROGRESS_SECONDS
        if pull.error is not None:
            raise _failure(name, pull.error) from pull.error


class _Pull(threading.Thread):
    """One pull; leaving the context ends it at its next sign of life."""

    def __init__(self, engine: Engine, name: str, silence_seconds: float) -> None:
        super().__init__(name=f"pull {name}", daemon=True)
        self._engine, self._image, self._silence_seconds = engine, name, silence_seconds
        self._unwanted = threading.Event()
        self._done: queue.SimpleQueue[None] = queue.SimpleQueue()
        #: Whatever kept it from its end; none of it may be taken for an end.
        self.error: Exception | None = None
        self.line = ""

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._unwanted.set()

    def run(self) -> None:
        """Follow the pull to its end."""
        layers: dict[str, str] = {}
        try:
            with closing(self._engine.pull(self._image, self._silence_seconds)) as events:
                for event in events:
                    if self._unwanted.is_set():
                        return
                    self.line = _describe(event, layers)
        except Exception as exc:  # noqa: BLE001 - whoever waits for it raises it
            self.error = exc
        finally:
            self._done.put(None)

    def finished(self, seconds: float) -> bool:
        """Wait for its end, at most so long; whether it came."""
        try:
            self._done.get(timeout=seconds)
        except queue.Empty:
            return False
        return True


def _describe(event: Mapping[str, Any], layers: dict[str, str]) -> str:
    """How far it is, in layers: the engine does not tell how large the whole is."""
    if event.get("id") and event.get("status"):
        layers[event["id"]] = event["status"]
    ready = sum(status in ("Pull complete", "Already exists") for status in layers.values())
    return f"{ready} of {len(layers)} layers" if layers else str(event.get("status", ""))


def _failure(name: str, error: Exception) -> Exception:
    """What a refused pull means for the experiment."""
    if isinstance(error, Refused):
        text = error.explanation.strip().rstrip(".")
        if error.status in (400, 401, 403, 404) or ABSENT.search(text):
            return ImageNotFound(f"image not found: {name} is not on this host and cannot be pulled: {text}.")
        return RegistryUnavailable(f"The image {name} cannot be pulled: {text}.")
    return error

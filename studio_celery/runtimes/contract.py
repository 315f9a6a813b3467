"""What a runtime is: it makes one attempt live on its own, and lets anybody on this host find, follow and stop it.

An attempt has a directory on the host (see `Launch`). The shim beside the script writes `io/log` and `io/exit.json`;
whoever follows the attempt reads those files, never a stream that dies with the reader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from studio_celery.experiment import Resources


@dataclass(frozen=True)
class Launch:
    """All that a runtime must know to start one attempt."""

    experiment_id: str
    attempt: int
    #: Number of the journal entry that made the starter owner.
    epoch: int
    #: Id of the worker that starts it.
    worker: str
    #: The script, relative to the workspace and in POSIX form, then its arguments, unchanged.
    argv: tuple[str, ...]
    #: `STUDIO_HOME/run/<experiment>/<attempt>`: holds `workspace/`, `artifacts/` and `io/`.
    directory: Path
    #: Variables for the script. They never override those that the runtime sets.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Image for containers, or None for the default: `python:<python>-slim`.
    image: str | None = None
    #: The submitter's Python, "3.11".
    python: str = "3.11"
    #: Text of a requirements file, or None.
    requirements: str | None = None
    resources: Resources = field(default_factory=Resources)
    #: Ids of the cards reserved for this attempt; exactly these are visible to it.
    cards: tuple[str, ...] = ()
    #: Bytes on the disk that its output may have there at a time, and how long the script is held up for room; None:
    #: no limit, where files cannot be freed of what is stored.
    spool_bytes: int | None = None
    hold_seconds: float = 0.0

    @property
    def workspace(self) -> Path:
        """The restored workspace on the host."""
        return self.directory / "workspace"

    @property
    def artifacts(self) -> Path:
        """Where the script leaves what is to be kept."""
        return self.directory / "artifacts"

    @property
    def io(self) -> Path:
        """Where the shim writes `log` and `exit.json`."""
        return self.directory / "io"


@dataclass(frozen=True)
class Handle:
    """An attempt that was started and not yet removed, alive or ended; whoever has it can follow it."""

    experiment_id: str
    attempt: int
    worker: str
    directory: Path
    #: What the runtime calls it: a container id, a pid.
    ref: str
    cards: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        """The file with the script's output, byte for byte; it only grows."""
        return self.directory / "io" / "log"


@dataclass(frozen=True)
class Exit:
    """How an attempt ended.

    Exactly one of `exit_code` and `signal` is set when the script was seen to end; neither when it vanished (container
    removed, host rebooted, engine killed), which `lost` tells in words.
    """

    exit_code: int | None = None
    signal: int | None = None
    #: The kernel killed it at its memory limit.
    out_of_memory: bool = False
    #: Set when the end of the script was not seen; says what is known.
    lost: str | None = None


#: Tells a person what is being done right now ("pulling python:3.11-slim").
Progress = Callable[[str], None]

#: True as soon as nobody wants the attempt any more; asked between steps and while waiting.
Cancelled = Callable[[], bool]


class Cancellation(Exception):
    """Preparing was given up because `cancelled()` became true."""


class Runtime(Protocol):
    """The contract. Every method may be called from any thread; failures are `RuntimeFailure`s."""

    name: str

    def check(self) -> None:
        """Raise `EngineUnavailable` if no attempt could be started here now."""

    def refuses(self, resources: Resources) -> str | None:
        """Say in a sentence why attempts with these resources never run here, or None."""

    def prepare(self, launch: Launch, progress: Progress, cancelled: Cancelled) -> None:
        """Make image, environment and the directory's ownership ready; may take minutes.

        Raise `ImageNotFound`, `EnvironmentFailed`, `IndexUnavailable`, `EngineUnavailable` or `Cancellation`.
        """

    def start(self, launch: Launch) -> Handle:
        """Start the attempt, and return once it is running. `prepare` came before."""

    def find(self) -> list[Handle]:
        """All attempts of this `STUDIO_HOME` that were started and not removed, by whichever worker."""

    def poll(self, handle: Handle) -> Exit | None:
        """How it ended, or None while it is alive."""

    def stop(self, handle: Handle, grace_seconds: float) -> None:
        """SIGTERM to the script's whole process group, `grace_seconds`, then SIGKILL to everything.

        Return when all is dead.
        """

    def remove(self, handle: Handle) -> None:
        """Forget the attempt: container and bookkeeping go; the directory is the caller's."""

    def tidy(self) -> None:
        """Remove what killed workers of this `STUDIO_HOME` left half-made here; nothing that a living one works on."""

    def site(self) -> str:
        """Where attempts of this runtime live: `find` shows those of its own site only."""

    def describe(self) -> Mapping[str, Any]:
        """Facts for `workers/<id>.json`: engine version, runtime name."""


def find_attempt(runtime: Runtime, experiment_id: str, attempt: int) -> Handle | None:
    """The attempt on this host, alive or ended, if it was started here and not removed."""
    for handle in runtime.find():
        if (handle.experiment_id, handle.attempt) == (experiment_id, attempt):
            return handle
    return None

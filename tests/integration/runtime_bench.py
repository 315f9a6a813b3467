"""A bench for runtimes: attempts of scripts that a test writes down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio import wait_for

from studio_celery.experiment import new_id
from studio_celery.runtimes.contract import Exit, Handle, Launch, Runtime

#: A secret of the worker, which no script may see.
SECRET = "worker-secret-7f3a"


def wait_for_output(handle: Handle, expected: bytes) -> None:
    """Wait until the script has printed this; its log comes into being a moment after the container has started."""
    wait_for(f"the output {expected!r}", lambda: handle.log.exists() and handle.log.read_bytes() == expected)


@dataclass
class Bench:
    """A `STUDIO_HOME` with one kind of runtime."""

    home: Path
    #: Makes a new runtime, as a worker that was just started does.
    make: Callable[[], Runtime]
    progress: list[str] = field(default_factory=list)

    def launch(self, source: str | None, *args: str, **fields: Any) -> Launch:
        """An attempt whose script has this source; None: there is no script."""
        identity = {"experiment_id": new_id(), "attempt": 1, "epoch": 3, "worker": "w1", **fields}
        directory = self.home / "run" / identity["experiment_id"] / str(identity["attempt"])
        launch = Launch(argv=("script.py", *args), directory=directory, **identity)
        for path in (launch.workspace, launch.artifacts, launch.io):
            path.mkdir(parents=True, exist_ok=True)
        if source is not None:
            (launch.workspace / "script.py").write_text(source)
        return launch

    def prepare(self, launch: Launch) -> None:
        """Prepare it; what was told is in `progress`."""
        self.progress.clear()
        self.make().prepare(launch, self.progress.append, lambda: False)

    def start(self, source: str | None, *args: str, **fields: Any) -> Handle:
        """Prepare and start an attempt."""
        launch = self.launch(source, *args, **fields)
        self.prepare(launch)
        return self.make().start(launch)

    def end(self, handle: Handle) -> Exit:
        """Wait for its end."""
        return wait_for("the end of the script", lambda: self.make().poll(handle))

    def run(self, source: str | None, *args: str, **fields: Any) -> tuple[Exit, bytes]:
        """Run a script to its end: how it ended, and its output."""
        handle = self.start(source, *args, **fields)
        return self.end(handle), handle.log.read_bytes()

    def clear(self) -> None:
        """Leave nothing behind."""
        runtime = self.make()
        for handle in runtime.find():
            runtime.stop(handle, 0)
            runtime.remove(handle)

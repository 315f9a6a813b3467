"""A Docker engine of a test's own, to be killed, stopped and started again: `scripts/docker-engine own`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from docker_engine import IMAGE, SCRIPTS, missing, need_engine, need_image
from studio import alive, wait_for

from studio_celery.runtimes.docker.engine import Engine

#: More than an engine with one image and a few containers needs.
ROOM_BYTES = 2**30


@contextmanager
def own_engine() -> Iterator[OwnEngine]:
    """One in a directory whose name is short enough for a socket; in memory if there is room, which is much faster."""
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() and shutil.disk_usage(memory).free > ROOM_BYTES else None
    with tempfile.TemporaryDirectory(prefix="studio-", dir=place) as folder, OwnEngine(Path(folder) / "e") as engine:
        yield engine


class OwnEngine:
    """Lives in a directory with a short name; only root on Debian can start one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.host = f"unix://{directory}/docker.sock"

    def __enter__(self) -> OwnEngine:
        if os.getuid() != 0:
            missing("only root can start a Docker engine of its own")
        shared = need_engine()
        need_image()
        self.directory.mkdir()
        (self.directory / "daemon.json").write_text("{}")
        try:
            self.start()
            self._load_image(shared)
        except BaseException:
            self._script("down")  # nobody else would
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.start()
        self.set_live_restore(False)  # what was left running ends with it
        self._script("down")

    def _load_image(self, shared: str) -> None:
        with subprocess.Popen(["docker", "--host", shared, "save", IMAGE], stdout=subprocess.PIPE) as image:
            load = ["docker", "--host", self.host, "load"]
            subprocess.run(load, stdin=image.stdout, check=True, capture_output=True)
        assert image.returncode == 0

    def start(self) -> None:
        """Start it, or find it running."""
        self._script("own")

    def set_live_restore(self, wanted: bool) -> None:
        """From now on containers outlive the engine, or do not."""
        (self.directory / "daemon.json").write_text(json.dumps({"live-restore": wanted}))
        os.kill(self.pid, signal.SIGHUP)
        wait_for("the engine's answer", lambda: Engine(self.host, {}).info()["LiveRestoreEnabled"] is wanted)

    def end(self, how: str) -> None:
        """SIGKILL it ("killed"), or ask it to stop ("stopped"), and wait until it is gone."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL if how == "killed" else signal.SIGTERM)
        wait_for("the engine's end", lambda: not alive(pid))

    @property
    def pid(self) -> int:
        """Of the engine that runs."""
        return int((self.directory / "pid").read_text())

    def _script(self, command: str) -> None:
        done = subprocess.run(
            [str(SCRIPTS / "docker-engine"), command, str(self.directory)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr

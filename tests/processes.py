"""A studio of real processes: broker, workers, commands, with a STUDIO_HOME of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import ports
from studio import environment, wait_for

from studio_celery.experiment import Status
from studio_celery.runtimes import make_runtime
from studio_celery.settings import load
from studio_celery.store import Store

BIN = Path(sys.executable).parent

#: A process may take so long until it answers: what starts in one second takes ten where many start.
START_SECONDS = 120.0


class Studio:
    """Commands and servers that share one STUDIO_HOME."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.home = folder / "home"
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("STUDIO_", "PUBSUB_", "GOOGLE_"))}
        self.environ = {**inherited, **environment(self.home, **settings)}
        self._processes: list[subprocess.Popen[str]] = []
        self._places: list[socket.socket] = []

    @property
    def store(self) -> Store:
        """The store, read by the test itself."""
        return Store(str(self.home / "store"))

    def start(self, *argv: str, **variables: str) -> subprocess.Popen[str]:
        """A process that is stopped at the end; its output goes to a file beside the home."""
        name = f"{len(self._processes)}-{argv[0].rsplit('/', 1)[-1]}"
        with (self.folder / f"{name}.out").open("w") as out, (self.folder / f"{name}.err").open("w") as err:
            process = subprocess.Popen(
                [str(BIN / argv[0]), *argv[1:]],
                env={**self.environ, **variables},
                cwd=self.work,
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        process.args = name
        self._processes.append(process)
        return process

    def output(self, process: subprocess.Popen[str], kind: str = "out") -> str:
        """What a started process has printed so far."""
        return (self.folder / f"{process.args}.{kind}").read_text()

    def broker(self, port: int = 0) -> subprocess.Popen[str]:
        """A local broker that answers; commands use it from now on. A port that it chose is kept for one after it."""
        if not port:
            self._places.append(ports.place())
            port = ports.port_of(self._places[-1])
        process = self.start("studio", "broker", "--port", str(port))
        self.environ["STUDIO_BROKER_URL"] = f"pubsub://{self.first_line(process).split()[1]}/studio"
        return process

    def first_line(self, process: subprocess.Popen[str]) -> str:
        """What a server prints once it answers, when all of it is there; fail at once if it has ended."""

        def line() -> str:
            said = self.output(process)
            assert process.poll() is None, f"{process.args} has ended: {self.output(process, 'err')}"
            return said.partition("\n")[0] if "\n" in said else ""

        return wait_for(f"the first line of {process.args}", line, START_SECONDS)

    def worker(self, queue: str, *options: str, **variables: str) -> subprocess.Popen[str]:
        """A worker that listens."""
        process = self.start("studio-start-remote-worker", queue, *options, **variables)
        self.wait_until_ready(process)
        return process

    def wait_until_ready(self, worker: subprocess.Popen[str]) -> None:
        """Wait until a worker consumes; fail at once if it has ended."""

        def ready() -> bool:
            said = self.output(worker, "err")
            assert worker.poll() is None, f"the worker has ended: {said}"
            return " ready." in said

        wait_for("the worker's start", ready, START_SECONDS)

    def command(self, *argv: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """A command run to its end."""
        return subprocess.run(
            [str(BIN / argv[0]), *map(str, argv[1:])],
            env={**self.environ, **variables},
            cwd=self.work,
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )

    def script(self, source: str, name: str = "script.py") -> str:
        """Write a script into the working directory."""
        (self.work / name).write_text(source)
        return name

    def submit(self, *argv: str) -> str:
        """The id of an experiment that `studio-runner` submitted."""
        done = self.command("studio-runner", *argv)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def show(self, experiment: str) -> dict[str, Any]:
        """`studio show --json`."""
        done = self.command("studio", "show", experiment, "--json")
        assert done.returncode == 0, done.stderr
        record: dict[str, Any] = json.loads(done.stdout)
        return record

    def log(self, experiment: str) -> bytes:
        """`studio logs`, byte for byte."""
        argv = [str(BIN / "studio"), "logs", experiment]
        return subprocess.run(argv, env=self.environ, capture_output=True, check=True, timeout=120).stdout

    def status(self, experiment: str) -> Status:
        """The state as the journal has it."""
        return self.store.journal(experiment).refresh().status

    def ended(self, experiment: str, seconds: float = 120) -> dict[str, Any]:
        """The record after the end."""
        wait_for(f"the end of {experiment}", lambda: self.status(experiment).terminal, seconds)
        return self.show(experiment)

    def kill(self, process: subprocess.Popen[str]) -> None:
        """SIGKILL, as a power cut would."""
        process.send_signal(signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        """Stop everything, the latest first, and remove what still runs on this host."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGINT if "worker" in str(process.args) else signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for place in self._places:
            place.close()
        runtime = make_runtime(load(environ=self.environ))
        for handle in runtime.find():
            runtime.stop(handle, 0)
            runtime.remove(handle)

"""Start Pub/Sub servers for tests as real processes: Google's emulator and our local broker.

Every server is ended by its context manager; none outlives the test session, whatever the test did to it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ports import kept_port

#: Seconds a server may take until it answers; a cold JVM on a busy machine needs several.
START_SECONDS = 120
#: Seconds a server may take to end after SIGTERM before it is killed.
STOP_SECONDS = 60
#: Where the emulator lies inside a Google Cloud SDK.
_JAR = "platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar"


class ServerProcess:
    """A server in a process of its own, and what it prints; ``address`` is set once it is ready."""

    def __init__(self, command: Sequence[str], *, ready: str, address: str = "") -> None:
        self.address = address
        self._pattern = re.compile(ready)
        self._answered = threading.Event()
        self._lines: list[str] = []
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._reader = threading.Thread(target=self._read, name="server-output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return "".join(self._lines)

    def wait_until_ready(self) -> None:
        if not self._answered.wait(START_SECONDS) or not self.address:
            self.kill()
            raise AssertionError(f"{self._process.args!r} did not become ready; it printed:\n{self.output}")

    def stop(self) -> int:
        """Ask, wait, then kill; return the exit code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self._reap()

    def kill(self) -> int:
        """End it as a power failure would."""
        self._process.kill()
        return self._reap()

    def _reap(self) -> int:
        code = self._process.wait(STOP_SECONDS)
        self._reader.join(STOP_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)
            if found := self._pattern.search(line):
                self.address = self.address or found.group(1)
                self._answered.set()
        self._answered.set()


def find_emulator() -> Path | None:
    """Return the newest emulator of any Google Cloud SDK on this machine."""
    roots = [Path("/usr/lib/google-cloud-sdk")]
    if root := os.environ.get("CLOUDSDK_ROOT_DIR"):
        roots.append(Path(root))
    if gcloud := shutil.which("gcloud"):
        roots.append(Path(gcloud).resolve().parent.parent)
    jars = {jar for root in roots for jar in root.glob(_JAR)}
    return max(jars, default=None)


@contextmanager
def emulator() -> Iterator[str]:
    """Run Google's emulator; give its ``host:port`` once it answers."""
    jar = find_emulator()
    if jar is None:
        raise AssertionError("no Google Cloud SDK with the Pub/Sub emulator is installed here")
    with kept_port() as port:
        command = ["java", "-Xmx256m", "-jar", str(jar), "--host=127.0.0.1", f"--port={port}"]
        server = ServerProcess(command, ready=r"Server started, listening on (\d+)", address=f"127.0.0.1:{port}")
        with _running(server):
            yield server.address


@contextmanager
def local_broker(data: Path, *, port: int = 0) -> Iterator[str]:
    """Run our broker on the directory ``data``; give its ``host:port`` once it answers."""
    with broker_process(data, port=port) as server:
        yield server.address


@contextmanager
def broker_process(data: Path, *options: str, host: str = "127.0.0.1", port: int = 0) -> Iterator[ServerProcess]:
    """The same, giving the process, for tests that kill it."""
    command = [sys.executable, "-m", "transports.local", f"--host={host}", f"--port={port}", f"--data={data}", *options]
    with _running(ServerProcess(command, ready=r"^ready (\S+)")) as server:
        yield server


@contextmanager
def _running(server: ServerProcess) -> Iterator[ServerProcess]:
    server.wait_until_ready()
    try:
        yield server
    finally:
        server.stop()

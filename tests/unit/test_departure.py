"""How a process leaves, with real signals, pipes and terminals; what runs under it is made up."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from studio import wait_for

#: A worker without Celery: it tells its way in files, and waits wherever one named `hold-…` is.
PROGRAM = """
import os, pathlib, subprocess, sys, threading, time

here = pathlib.Path(sys.argv[1])

def tell(what):
    with (here / "told").open("a") as file:
        file.write(what + "\\n")

def hold(where):
    while (here / f"hold-{where}").exists():
        time.sleep(0.01)

tell("began")
hold("before")
from studio_celery.worker.starting import starting
from studio_celery.worker.departure import Departure

starting.hear()
tell("hears")
blocked = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getsignal(signal.SIGHUP))"
tell(subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True).stdout.strip())
hold("start")

def detach():
    tell("detached")
    hold("detach")
    if (here / "broken-detach").exists():
        raise ValueError("no store")
    return ["one"]

stopped = threading.Event()
Departure(
    detach=detach, stop_taking=stopped.set, limit_seconds=float(sys.argv[2]), detach_on_stop=False
).listen()
tell("listens")
while not stopped.wait(0.01):
    pass
tell("stopped taking")
hold("end")
tell("ends")
"""

#: Longer than any test: only what does not wait for it ends in time.
NEVER = 600.0


class Worker:
    """A running `PROGRAM`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "program.py").write_text(PROGRAM)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, limit_seconds: float = NEVER, **streams: object) -> subprocess.Popen[bytes]:
        argv = [sys.executable, str(self.folder / "program.py"), str(self.folder), str(limit_seconds)]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **streams}
        self.process = subprocess.Popen(argv, start_new_session=True, **streams)  # type: ignore[call-overload]
        return self.process

    def hold(self, where: str) -> Path:
        path = self.folder / f"hold-{where}"
        path.touch()
        return path

    def told(self, what: str, times: int = 1) -> None:
        wait_for(f"{what}, {times} times", lambda: self.all_told.count(what) >= times)

    @property
    def all_told(self) -> list[str]:
        told = self.folder / "told"
        return told.read_text().splitlines() if told.exists() else []

    @property
    def said(self) -> str:
        return (self.folder / "err").read_text()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    started = Worker(tmp_path)
    with (tmp_path / "err").open("wb") as err:
        start = started.start
        started.start = lambda *args, **streams: start(*args, **{"stderr": err, **streams})  # type: ignore[method-assign]
        yield started
    if started.process and started.process.poll() is None:
        started.process.kill()
        started.process.wait()


def test_who_has_nobody_to_tell_leaves_all_the_same(worker: Worker) -> None:
    reader, writer = os.pipe()
    process = worker.start(stdout=writer, stderr=writer)
    os.close(writer)
    worker.told("listens")
    os.close(reader)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert worker.all_told[-3:] == ["detached", "stopped taking", "ends"]


def test_who_has_nobody_to_tell_does_not_wait_for_what_does_not_answer(worker: Worker) -> None:
    reader, writer = os.pipe()
    worker.hold("end")
    process = worker.start(0.2, stdout=writer, stderr=writer)
    os.close(writer)
    worker.told("listens")
    os.close(reader)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def own_terminal() -> None:
    fcntl.ioctl(2, termios.TIOCSCTTY, 0)


@pytest.mark.parametrize("where", ["listens", "hears"])
def test_who_loses_its_terminal_leaves_and_does_not_begin_anew(worker: Worker, where: str) -> None:
    if where == "hears":
        worker.hold("start")
    master, slave = pty.openpty()
    process = worker.start(stderr=slave, preexec_fn=own_terminal)
    os.close(slave)
    worker.told(where)
    os.close(master)  # the kernel sends SIGHUP
    assert process.wait(60) == 0
    assert worker.all_told.count("began") == 1


def test_a_reload_in_a_terminal_that_is_still_there_begins_anew(worker: Worker) -> None:
    master, slave = pty.openpty()
    process = worker.start(stderr=slave, preexec_fn=own_terminal)
    os.close(slave)
    worker.told("listens")
    process.send_signal(signal.SIGHUP)
    worker.told("listens", 2)
    process.send_signal(signal.SIGQUIT)
    assert process.wait(60) == 0
    os.close(master)


def test_what_cannot_be_left_in_order_is_left_all_the_same(worker: Worker) -> None:
    (worker.folder / "broken-detach").touch()
    end = worker.hold("end")
    process = worker.start()
    worker.told("listens")
    process.send_signal(signal.SIGINT)
    wait_for("what it says of it", lambda: "cannot be done in order" in worker.said)
    end.unlink()
    assert process.wait(60) == 0


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_after_a_reload_is_obeyed(worker: Worker, stop: signal.Signals) -> None:
    end = worker.hold("end")
    process = worker.start()
    worker.told("listens")
    process.send_signal(signal.SIGHUP)
    worker.told("stopped taking")
    process.send_signal(stop)
    wait_for("its answer", lambda: "not beginning anew" in worker.said)
    end.unlink()
    assert process.wait(60) == 0
    assert worker.all_told.count("began") == 1


def test_a_stop_that_nobody_has_read_is_obeyed(worker: Worker) -> None:
    """The thread that hears hangs in the store, since the reload before."""
    worker.hold("detach")
    worker.hold("end")
    process = worker.start(5.0)
    worker.told("listens")
    process.send_signal(signal.SIGHUP)
    worker.told("detached")
    process.send_signal(signal.SIGQUIT)
    assert process.wait(60) == 0
    assert worker.all_told.count("began") == 1


def test_a_reload_after_a_stop_does_not_begin_anew(worker: Worker) -> None:
    end = worker.hold("end")
    process = worker.start()
    worker.told("listens")
    process.send_signal(signal.SIGTERM)
    worker.told("stopped taking")
    process.send_signal(signal.SIGHUP)
    wait_for("its answer", lambda: "told to stop already" in worker.said)
    end.unlink()
    assert process.wait(60) == 0
    assert worker.all_told.count("began") == 1
    assert "detached" not in worker.all_told


def test_a_reload_while_it_starts_is_made_up_for(worker: Worker) -> None:
    start = worker.hold("start")
    process = worker.start()
    worker.told("hears")
    process.send_signal(signal.SIGHUP)
    start.unlink()
    worker.told("listens")
    assert [line for line in worker.all_told if line in ("began", "listens")] == ["began", "began", "listens"]
    process.send_signal(signal.SIGQUIT)
    assert process.wait(60) == 0


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_while_it_starts_ends_it_at_once(worker: Worker, stop: signal.Signals) -> None:
    worker.hold("start")
    process = worker.start()
    worker.told("hears")
    process.send_signal(stop)
    assert process.wait(60) == 0


def reload(worker: Worker) -> Callable[[], object]:
    """A worker that has begun anew and does not hear yet; returns what lets it go on."""
    process = worker.start()
    worker.told("listens")
    before = worker.hold("before")
    process.send_signal(signal.SIGHUP)
    worker.told("began", 2)
    return before.unlink


def test_a_signal_between_the_two_programs_waits_for_the_second(worker: Worker) -> None:
    go_on = reload(worker)
    assert worker.process is not None
    worker.process.send_signal(signal.SIGHUP)
    worker.process.send_signal(signal.SIGHUP)
    go_on()
    worker.told("began", 3)
    worker.told("listens", 2)
    before = worker.hold("before")
    worker.process.send_signal(signal.SIGHUP)
    worker.told("began", 4)
    worker.process.send_signal(signal.SIGTERM)
    before.unlink()
    assert worker.process.wait(60) == 0
    assert worker.all_told.count("hears") == 3


def test_children_of_the_second_program_have_no_signals_blocked_or_ignored(worker: Worker) -> None:
    reload(worker)()
    worker.told("listens", 2)
    assert worker.process is not None
    worker.process.send_signal(signal.SIGQUIT)
    assert worker.process.wait(60) == 0
    assert worker.all_told.count(f"set() {signal.Handlers.SIG_DFL!s}") == 2, worker.all_told


def test_the_second_program_has_no_files_of_the_first(worker: Worker) -> None:
    process = worker.start()
    worker.told("listens")
    files = Path(f"/proc/{process.pid}/fd")
    wait_for("standard streams and a pipe", lambda: len(list(files.iterdir())) == 5)
    process.send_signal(signal.SIGHUP)
    worker.told("listens", 2)
    wait_for("standard streams and a pipe", lambda: len(list(files.iterdir())) == 5)
    process.send_signal(signal.SIGQUIT)
    assert process.wait(60) == 0


def test_who_cannot_begin_anew_says_so_and_fails(worker: Worker) -> None:
    program = worker.folder / "program.py"
    program.write_text(PROGRAM.replace('tell("listens")', 'sys.executable = "/nowhere/python"; tell("listens")'))
    process = worker.start()
    worker.told("listens")
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 1
    assert "cannot begin anew (/nowhere/python: No such file or directory): start it again" in worker.said

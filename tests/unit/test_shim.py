"""The shim alone, as a process beside real scripts."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from studio import alive, wait_for

from studio_celery.runtimes import shim
from studio_celery.supervisor import holes


@pytest.fixture
def io(tmp_path: Path) -> Path:
    path = tmp_path / "io"
    path.mkdir()
    return path


@pytest.fixture(autouse=True)
def nothing_runs_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test starts ends with it, also if it fails."""
    started: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    yield
    for process in started:
        process.kill()
        process.wait()


def start(io: Path, *argv: str) -> subprocess.Popen[bytes]:
    """Start the shim with a command."""
    (io / "argv").write_bytes(b"\0".join(os.fsencode(part) for part in argv))
    return subprocess.Popen([sys.executable, "-E", "-S", shim.__file__, str(io)])


def run(io: Path, *argv: str) -> tuple[int, dict[str, Any]]:
    """Run a command to its end: the shim's exit code, and what it wrote down."""
    code = start(io, *argv).wait(60)
    return code, json.loads((io / "exit.json").read_text())


def python(io: Path, source: str) -> tuple[int, dict[str, Any]]:
    return run(io, sys.executable, "-c", source)


def test_runs_on_python_3_6() -> None:
    ast.parse(Path(shim.__file__).read_text(), feature_version=(3, 6))


def test_writes_down_the_end(io: Path) -> None:
    code, record = python(io, "print('x'); raise SystemExit(7)")
    times = [record.pop("started_at"), record.pop("finished_at")]
    expected = {"exit_code": 7, "terminated": False, "oom_kills": 0, "log_bytes": 2, "lost_bytes": 0}
    assert code == 7
    assert {**record, "oom_kills": 0} == expected
    assert times == sorted(times)


def test_a_signal_becomes_128_and_its_number(io: Path) -> None:
    code, record = python(io, "import os; os.kill(os.getpid(), 11)")
    assert (code, record["signal"]) == (139, 11)
    assert "exit_code" not in record


@pytest.mark.parametrize(("command", "expected"), [("/no/such/program", 127), ("/etc/passwd", 126)])
def test_what_cannot_be_started_says_why(io: Path, command: str, expected: int) -> None:
    code, record = run(io, command)
    assert code == record["exit_code"] == expected
    assert (io / "log").read_text().startswith(f"[studio] cannot start {command}: ")


def test_stdin_is_empty(io: Path) -> None:
    python(io, "import sys; print(repr(sys.stdin.read()))")
    assert (io / "log").read_text() == "''\n"


def test_appends_to_the_log(io: Path) -> None:
    (io / "log").write_text("before\n")
    _, record = python(io, "print('after')")
    assert (io / "log").read_text() == "before\nafter\n"
    assert record["log_bytes"] == 13


def test_a_full_disk_loses_output_and_not_the_script(io: Path) -> None:
    (io / "log").symlink_to("/dev/full")
    code, record = python(io, "print('x' * 200_000)")
    assert (code, record["lost_bytes"]) == (0, 200_001)


def test_a_loss_is_noted_when_there_is_room_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = shim.Log(path)
    room = os.dup(log._fd)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._fd)
    log.write(b"lost")
    os.dup2(room, log._fd)
    log.write(b"kept\n")
    assert path.read_bytes() == b"\n[studio] 4 bytes of output were lost: the disk was full\nkept\n"
    assert log.lost == 4
    for fd in (room, full, log._fd):
        os.close(fd)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_forwards_termination(io: Path, number: int) -> None:
    source = (
        "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(9))\nprint('on', flush=True)\ntime.sleep(600)"
    )
    process = start(io, sys.executable, "-c", source)
    wait_for("the script", lambda: (io / "log").exists() and (io / "log").read_bytes() == b"on\n")
    process.send_signal(number)
    assert process.wait(60) == 9
    assert json.loads((io / "exit.json").read_text())["terminated"] is True


def test_kills_on_request_and_saves_the_last_output(io: Path) -> None:
    source = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('on', flush=True)\ntime.sleep(600)"
    process = start(io, sys.executable, "-c", source)
    wait_for("the script", lambda: (io / "log").exists() and (io / "log").read_bytes() == b"on\n")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 128 + signal.SIGKILL
    assert json.loads((io / "exit.json").read_text())["signal"] == signal.SIGKILL


def test_a_child_that_keeps_the_pipe_open_is_not_waited_for(io: Path) -> None:
    source = "import subprocess, sys\nsubprocess.Popen(['sleep', '600'])\nprint('end')"
    code, _ = python(io, source)
    assert code == 0
    assert (io / "log").read_text() == "end\n"


def test_closed_output_does_not_end_it(io: Path) -> None:
    code, _ = python(io, "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(0.2)\nos._exit(6)")
    assert code == 6


#: A limit that one read of the pipe fills up.
SMALL = 2 * shim.CHUNK_BYTES


def free(path: Path, end: int) -> None:
    """Give the beginning of the log back, as its worker does when the store has it."""
    with path.open("r+b") as file:
        holes.punch(file.fileno(), end)


def start_spooled(io: Path, source: str, hold: float) -> subprocess.Popen[bytes]:
    (io / "argv").write_bytes(b"\0".join(os.fsencode(part) for part in (sys.executable, "-c", source)))
    options = [f"--spool={SMALL}", f"--hold={hold}"]
    return subprocess.Popen([sys.executable, "-E", "-S", shim.__file__, *options, str(io)])


def test_without_room_it_loses_output_and_says_so_in_one_line(io: Path) -> None:
    process = start_spooled(io, "import os\nfor _ in range(64): os.write(1, b'x' * 65536)\nprint('last words')", 0.1)
    assert process.wait(60) == 0
    log, lost = (io / "log").read_bytes(), json.loads((io / "exit.json").read_text())["lost_bytes"]
    note = b"\n[studio] %d bytes of output were lost: this worker's disk held all" % lost
    assert lost > 32 * 65536
    assert log.count(b"[studio]") == 1
    assert note in log
    assert log.endswith(b"last words\n")
    assert len(log) < SMALL + shim.LAST_WORDS_BYTES


def test_it_holds_a_script_up_as_long_as_room_is_being_made_and_loses_nothing(io: Path) -> None:
    process = start_spooled(io, "import os\nfor n in range(40): os.write(1, b'%09d\\n' % n * 6554)", 60)
    freed = 0

    def make_room() -> bool:
        nonlocal freed
        size = (io / "log").stat().st_size if (io / "log").exists() else 0
        assert size - freed <= SMALL + shim.LAST_WORDS_BYTES  # the last words have room of their own
        if size > freed:
            freed = size // 4096 * 4096
            free(io / "log", freed)
        return process.poll() is not None

    wait_for("the end", make_room)
    record = json.loads((io / "exit.json").read_text())
    assert (record["exit_code"], record["lost_bytes"], record["log_bytes"]) == (0, 0, 40 * 65540)


def test_a_script_that_is_held_up_can_be_terminated(io: Path) -> None:
    process = start_spooled(io, "import os\nwhile True: os.write(1, b'x' * 65536)", 600)
    wait_for("the full log", lambda: (io / "log").exists() and (io / "log").stat().st_size > SMALL - 65536)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM


def changed(folder: Path, change: str) -> Path:
    """The shim as a program of its own, with some of it replaced."""
    path = folder / "changed_shim.py"
    where = str(Path(shim.__file__).parent)
    path.write_text(
        f"import os, sys, time\nsys.path.append({where!r})\nimport shim\n{change}\nsys.exit(shim.main(sys.argv[1:]))\n"
    )
    return path


def test_a_script_that_ends_before_it_is_followed_has_its_end_written_down(io: Path, tmp_path: Path) -> None:
    change = """
class Ended(shim.subprocess.Popen):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
shim.subprocess.Popen = Ended
"""
    (io / "argv").write_bytes(os.fsencode(sys.executable) + b"\0-c\0raise SystemExit(3)")
    assert subprocess.run([sys.executable, "-E", "-S", changed(tmp_path, change), io], check=False).returncode == 3
    assert json.loads((io / "exit.json").read_text())["exit_code"] == 3


def test_a_script_that_nobody_waits_for_any_more_is_not_started(io: Path, tmp_path: Path) -> None:
    change = """
detach, front = shim.detach, os.getpid()
def slow(directory):
    ready = detach(directory)
    (directory / "slow").write_text(str(os.getpid()))
    while os.getppid() == front: time.sleep(0.01)
    return ready
shim.detach = slow
"""
    (io / "argv").write_bytes(b"touch\0" + os.fsencode(io / "started"))
    front = subprocess.Popen([sys.executable, "-E", "-S", changed(tmp_path, change), "--daemon", io])
    pid = wait_for("the shim", lambda: (io / "slow").exists() and (io / "slow").read_text())
    front.kill()
    front.wait()
    wait_for("the shim's end", lambda: not alive(int(pid)))
    assert (io / "shim.err").read_text() == "[studio] The script was not started: nobody waits for it any more.\n"
    assert not (io / "started").exists()
    assert not (io / "pid.json").exists()


def test_a_shim_that_is_given_up_on_as_it_starts_the_script_still_looks_after_it(io: Path, tmp_path: Path) -> None:
    change = """
write_pid, front = shim.write_pid, os.getpid()
def late(directory, session):
    os.kill(front, 9)
    while os.getppid() == front: time.sleep(0.01)
    write_pid(directory, session)
shim.write_pid = late
"""
    (io / "argv").write_bytes(b"true")
    front = subprocess.run([sys.executable, "-E", "-S", changed(tmp_path, change), "--daemon", io], check=False)
    assert front.returncode == -signal.SIGKILL
    wait_for("its end", (io / "exit.json").exists)
    assert json.loads((io / "exit.json").read_text())["exit_code"] == 0

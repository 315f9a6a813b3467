"""What only processes do: refuse, outlive their shim's death, be told apart from others with the same pid."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from runtime_bench import Bench
from studio import alive, wait_for

from studio_celery.errors import RuntimeFailure
from studio_celery.experiment import Resources
from studio_celery.runtimes import processes, shim
from studio_celery.runtimes.contract import Exit, Handle
from studio_celery.runtimes.processes import boot_id, start_time

#: Says its pid and waits.
PID = "import os, time\nprint(os.getpid())\ntime.sleep(600)\n"


@contextmanager
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with us, and is dead in the end."""
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            yield process
        finally:
            process.kill()


def change_record(handle: Handle, **changes: object) -> None:
    """Change what the worker noted of the shim."""
    path = handle.directory / "process.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "shim": {**record["shim"], **changes}}))


def script_pid(handle: Handle) -> int:
    return int(wait_for("the script's pid", lambda: handle.log.read_bytes().endswith(b"\n") and handle.log.read_text()))


@pytest.mark.parametrize(
    "asked", [Resources(gpus=1), Resources(cpus=1.0), Resources(memory_bytes=2**30), Resources(shm_bytes=2**20)]
)
def test_limits_and_cards_are_refused_in_a_sentence(process_bench: Bench, asked: Resources) -> None:
    assert (process_bench.make().refuses(asked) or "").endswith("it needs the docker runtime.")


def test_without_limits_nothing_is_refused(process_bench: Bench) -> None:
    assert process_bench.make().refuses(Resources()) is None


def test_the_shim_is_a_session_of_its_own(process_bench: Bench) -> None:
    handle = process_bench.start(PID)
    assert os.getsid(int(handle.ref)) == int(handle.ref)
    assert os.getsid(script_pid(handle)) == script_pid(handle)


def test_a_killed_shim_loses_the_attempt_and_the_script_is_ended(process_bench: Bench) -> None:
    handle = process_bench.start(PID)
    pid = script_pid(handle)
    os.kill(int(handle.ref), signal.SIGKILL)
    assert process_bench.end(handle) == Exit(lost="the shim beside the script was killed")
    process_bench.make().remove(handle)
    assert not alive(pid)


def test_another_process_with_its_pid_is_left_alone(process_bench: Bench) -> None:
    handle = process_bench.start(PID)
    pid = script_pid(handle)
    with bystander() as other:
        change_record(handle, pid=other.pid)
        assert process_bench.make().poll(handle) == Exit(lost="the shim beside the script was killed")
        process_bench.make().stop(handle, 0)
        assert other.poll() is None
    assert not alive(pid)


def test_what_the_script_writes_of_the_shim_does_not_count(process_bench: Bench) -> None:
    handle = process_bench.start(PID)
    with bystander() as other:
        facts = {"pid": other.pid, "start_time": start_time(other.pid), "boot_id": boot_id()}
        (handle.directory / "io" / "pid.json").write_text(json.dumps(facts))
        assert process_bench.make().poll(handle) is None
        process_bench.make().stop(handle, 0)
        assert other.poll() is None


def test_a_rebooted_host_loses_what_ran(process_bench: Bench) -> None:
    handle = process_bench.start(PID)
    change_record(handle, boot_id="before")
    assert process_bench.make().poll(handle) == Exit(lost="the host was rebooted")


@pytest.mark.parametrize(
    ("source", "own_end"),
    [
        ("import os; os.kill(os.getpid(), 15)", Exit(signal=15)),
        ("import os; os.kill(os.getpid(), 9)", Exit(signal=9)),
        ("import os; os.kill(os.getppid(), 15); import time; time.sleep(600)", Exit(signal=15)),
    ],
)
def test_what_is_killed_while_the_host_goes_down_is_lost(
    process_bench: Bench, monkeypatch: pytest.MonkeyPatch, source: str, own_end: Exit
) -> None:
    handle = process_bench.start(source)
    assert process_bench.end(handle) == own_end
    monkeypatch.setattr("studio_celery.runtimes.host.going_down", lambda: True)
    assert process_bench.make().poll(handle) == Exit(lost="the host is going down")


def test_what_fails_by_itself_while_the_host_goes_down_has_failed(
    process_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio_celery.runtimes.host.going_down", lambda: True)
    assert process_bench.end(process_bench.start("raise SystemExit(3)")) == Exit(exit_code=3)


def test_an_image_is_said_to_be_of_no_use(process_bench: Bench) -> None:
    process_bench.prepare(process_bench.launch(PID, image="python:3.11"))
    assert process_bench.progress == ["image python:3.11 is not used: this worker runs scripts as processes"]


def test_links_in_place_of_the_end_are_not_followed(process_bench: Bench) -> None:
    handle = process_bench.start(PID)
    target = handle.directory / "elsewhere.json"
    target.write_text('{"exit_code": 0}')
    (handle.directory / "io" / "exit.json").symlink_to(target)
    assert process_bench.make().poll(handle) is None


def test_a_shim_that_is_too_slow_leaves_nothing_that_runs(
    process_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "slow_shim.py"
    slow.write_text(
        f"import sys, time\nsys.path.append({str(Path(shim.__file__).parent)!r})\nimport shim\n"
        "write_pid = shim.write_pid\n"
        "def late(*arguments): write_pid(*arguments); time.sleep(600)\n"
        "shim.write_pid = late\nsys.exit(shim.main(sys.argv[1:]))\n"
    )
    monkeypatch.setattr(shim, "__file__", str(slow))
    monkeypatch.setattr("studio_celery.runtimes.process.SHIM_SECONDS", 1.5)
    launch = process_bench.launch(PID)
    with pytest.raises(RuntimeFailure, match=r"The shim beside the script cannot be started.*timed out"):
        process_bench.make().start(launch)
    assert processes.marked("STUDIO_ARTIFACTS", str(launch.artifacts)) == []
    assert process_bench.make().find() == []


def test_an_end_that_is_nested_too_deeply_is_none(process_bench: Bench) -> None:
    handle = process_bench.start(PID)
    (handle.directory / "io" / "exit.json").write_text("[" * 60_000)
    assert process_bench.make().poll(handle) is None

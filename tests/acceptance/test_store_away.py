"""The store is away: what real workers and commands make of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_store import Fault, Faults
from processes import Studio
from studio import TWENTIETH, read_log, wait_for

from studio_celery.experiment import Status

#: A busy machine may stand still for half of it, and the worker still renews in time.
LEASE_SECONDS = 8.0


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    one = Studio(tmp_path, runtime="process", gpus="none", lease_floor_seconds=LEASE_SECONDS)
    try:
        one.broker()
        yield one
    finally:
        one.close()


def counting(gate: Path) -> str:
    return (
        "import itertools, os, time\n"
        "for n in itertools.count():\n"
        "    print(n, flush=True)\n"
        "    time.sleep(0.005)\n"
        f"    if os.path.exists({str(gate)!r}): break\n"
    )


def test_an_outage_and_then_an_adoption_cost_no_line_and_no_attempt(studio: Studio, tmp_path: Path) -> None:
    """Longer than lease and patience: another host listens, and gets no message, as the lease is kept meanwhile."""
    (tmp_path / "b").mkdir()
    settings = {"lease_floor_seconds": LEASE_SECONDS, "store": studio.home / "store"}
    other = Studio(tmp_path / "b", runtime="process", gpus="none", **settings)
    other.environ["STUDIO_BROKER_URL"] = studio.environ["STUDIO_BROKER_URL"]
    faults, gate = Faults(tmp_path / "faults.json"), tmp_path / "gate"
    try:
        worker = studio.worker("q", **faults.variables())
        one = studio.submit("--queue", "q", studio.script(counting(gate)))
        wait_for("its output", lambda: studio.status(one) is Status.RUNNING and read_log(studio.store, one))
        follower = studio.start("studio", "logs", "-f", one, **faults.variables())
        wait_for("the followed output", lambda: studio.output(follower))
        listener = other.worker("q")
        faults.cut(seconds=1.5 * TWENTIETH["patience_floor_seconds"] + LEASE_SECONDS)
        wait_for("what the follower says", lambda: "does not answer" in studio.output(follower, "err"))
        stored = len(read_log(studio.store, one))
        wait_for("the output after the outage", lambda: len(read_log(studio.store, one)) > stored + 1000)
        assert faults.hits()
        assert "received" not in other.output(listener, "err")
        # From here on it might take over after the patience, 3 s here: too soon for a start anew on a busy machine.
        other.close()
        studio.kill(worker)
        studio.worker("q")
        journal = studio.store.journal(one)
        wait_for("the adoption", lambda: len(journal.refresh().attempts[0].log_epochs) == 2)
        gate.touch()
        record = studio.ended(one)
        assert follower.wait(60) == 0
    finally:
        other.close()
    assert (record["status"], len(record["attempts"])) == ("finished", 1)
    numbers = read_log(studio.store, one).split()
    assert numbers == [b"%d" % n for n in range(len(numbers))]
    assert studio.output(follower).encode() == read_log(studio.store, one)
    said = studio.output(follower, "err")
    assert (said.count("does not answer"), said.count("The store answers again.")) == (1, 1)


def test_what_the_broker_has_confirmed_is_recorded_though_the_store_was_away_just_then(
    studio: Studio, tmp_path: Path
) -> None:
    """An error would be wrong: the message cannot be taken back, and whoever submits again runs it twice."""
    faults = Faults(tmp_path / "faults.json")
    faults.add(Fault("error", method="create", holding='"kind": "queued"', times=1))
    done = studio.command("studio-runner", "--queue", "q", studio.script("print(1)"), **faults.variables())
    assert (done.returncode, len(faults.hits())) == (0, 1)
    assert studio.status(done.stdout.strip()) is Status.WAITING


def test_commands_say_in_one_sentence_that_the_store_is_away(studio: Studio, tmp_path: Path) -> None:
    one = studio.submit("--queue", "q", studio.script("print(1)"))
    faults = Faults(tmp_path / "faults.json")
    faults.cut()
    commands = (
        ["studio", "stop", one],
        ["studio", "logs", one],
        ["studio", "logs", "-f", one],
        ["studio-runner", "--queue", "q", "script.py"],
    )
    for command in commands:
        done = studio.command(*command, **faults.variables())
        assert (done.returncode, done.stdout) == (1, ""), command
        assert re.fullmatch(r"Error: The store \S+ does not answer [^\n]+\n", done.stderr), done.stderr
    faults.heal()
    assert studio.status(one) is Status.WAITING
    assert studio.command("studio", "stop", one, **faults.variables()).returncode == 0
    assert studio.status(one) is Status.STOPPED

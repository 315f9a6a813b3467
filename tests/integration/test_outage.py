"""The store is not always there: what an attempt, its owner and its output do meanwhile, and afterwards."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_store import Chance, Fault, Faults, faulty_store
from studio import alive, quick_settings, read_log, submit, wait_for

from studio_celery.errors import StoreError
from studio_celery.experiment import Capture, Status
from studio_celery.journal import Kind
from studio_celery.runtimes import make_runtime
from studio_celery.store import Store
from studio_celery.supervisor import Detached, Supervisor

MIB = 2**20

ENDS = {"finished", "failed", "stopped", "expired"}


class Bench:
    """One worker whose store can be cut off; the test itself has one that is whole."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.store = Store(str(folder / "store"))
        self.faults = Faults()
        options = quick_settings(folder / "home", **settings)
        self.worker = Supervisor(faulty_store(self.store.url, self.faults), make_runtime(options), options)
        self._threads: list[threading.Thread] = []

    def run(self, source: str, *args: str, **fields: Any) -> str:
        """Submit a script and deliver it again and again, as a broker does, until it has ended."""
        one = submit(self.store, self.folder, source, *args, **fields)

        def deliver() -> None:
            try:
                while not self.state(one).status.terminal:
                    self.worker.handle(one)
            except Detached:
                return

        self._threads.append(threading.Thread(target=deliver))
        self._threads[-1].start()
        return one

    def state(self, experiment_id: str) -> Any:
        return self.store.journal(experiment_id).refresh()

    def kinds(self, experiment_id: str) -> list[str]:
        journal = self.store.journal(experiment_id)
        journal.refresh()
        return [entry.kind.value for entry in journal.entries]

    def said(self, experiment_id: str, text: bytes) -> None:
        """Wait until the store has this output of the latest attempt."""
        wait_for(
            f"{text!r}", lambda: self.state(experiment_id).attempts and text in read_log(self.store, experiment_id)
        )

    def ended(self, experiment_id: str) -> Any:
        """The state after the end, once the worker is through with it."""
        wait_for("the end", lambda: self.state(experiment_id).status.terminal, 120)
        for thread in self._threads:
            thread.join(60)
        return self.state(experiment_id)

    def close(self) -> None:
        self.faults.heal()
        self.worker.detach()
        for thread in self._threads:
            thread.join(60)
        for handle in self.worker.runtime.find():
            self.worker.runtime.stop(handle, 0)
            self.worker.runtime.remove(handle)
        self.worker.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path)
    yield one
    one.close()


def gated(*gates: Path) -> str:
    """Prints a line, and another one after each gate."""
    lines = ["import os, time", "print('line 0', flush=True)"]
    for number, gate in enumerate(gates, 1):
        lines += [f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)", f"print('line {number}', flush=True)"]
    return "\n".join(lines) + "\n"


def host_log(bench: Bench, experiment_id: str) -> Path:
    return bench.folder / "home" / "run" / experiment_id / "1" / "io" / "log"


def tries(bench: Bench) -> int:
    """How often a heartbeat met the outage: each reads the journal first."""
    return sum("journal" in hit for hit in bench.faults.hits())


def test_output_and_heartbeat_catch_up_after_an_outage(bench: Bench, tmp_path: Path) -> None:
    gates = tmp_path / "one", tmp_path / "two"
    one = bench.run(gated(*gates))
    bench.said(one, b"line 0\n")
    bench.faults.cut()
    wait_for("tries", lambda: tries(bench) > 1)  # a heartbeat that was under way has arrived before its next
    last = bench.store.heartbeat_modified(one, 1)
    gates[0].touch()
    wait_for("its output on the host", lambda: b"line 1" in host_log(bench, one).read_bytes())
    wait_for("tries", lambda: tries(bench) > 4)
    assert read_log(bench.store, one) == b"line 0\n"
    assert bench.store.heartbeat_modified(one, 1) == last
    bench.faults.heal()
    bench.said(one, b"line 1\n")
    wait_for("a heartbeat", lambda: bench.store.heartbeat_modified(one, 1) != last)
    gates[1].touch()
    state = bench.ended(one)
    assert (state.status, len(state.attempts)) == (Status.FINISHED, 1)
    assert read_log(bench.store, one) == b"line 0\nline 1\nline 2\n"


def test_an_end_is_no_end_before_the_store_has_it_with_all_that_belongs_to_it(bench: Bench, tmp_path: Path) -> None:
    source = gated(tmp_path / "go") + "open(os.environ['STUDIO_ARTIFACTS'] + '/model', 'w').write('kept')\n"
    one = bench.run(source)
    bench.said(one, b"line 0\n")
    bench.faults.cut()
    (tmp_path / "go").touch()
    ending = host_log(bench, one).parent / "exit.json"
    wait_for("the script's end", ending.exists)
    seen = len(bench.faults.hits())
    wait_for("tries", lambda: len(bench.faults.hits()) > seen + 5)
    assert not ENDS & set(bench.kinds(one))
    assert bench.worker.running == [one]
    assert ending.exists()
    bench.faults.heal()
    assert bench.ended(one).status is Status.FINISHED
    assert bench.kinds(one) == ["submitted", "queued", "claimed", "started", "finished"]
    assert read_log(bench.store, one) == b"line 0\nline 1\n"
    assert b"".join(bench.store.artifact_stream(one, 1, "output/model")) == b"kept"


def test_each_artifact_waits_for_the_store_and_costs_no_other(bench: Bench) -> None:
    """Where each put fails every other time, forty files must not be begun anew at each failure."""
    source = (
        "import os, pathlib\n"
        "for n in range(40): pathlib.Path(os.environ['STUDIO_ARTIFACTS'], str(n)).write_text(str(n))\n"
    )
    bench.worker.settings = quick_settings(bench.folder / "home", heartbeat_seconds=0.02)
    bench.faults.set_chance(Chance(seed=5, error=0.3, lost=0.2, key="*/artifacts/*"))
    one = bench.run(source)
    assert bench.ended(one).status is Status.FINISHED
    found = {item.key for item in bench.store.artifact_files(one, 1)}
    assert found == {f"output/{n}" for n in range(40)}
    tries = Counter(hit.rsplit("/", 1)[-1] for hit in bench.faults.hits())
    assert len(bench.faults.hits()) > 10
    assert max(tries.values()) < 15


def test_a_file_that_vanishes_or_cannot_be_read_is_left_out_and_hangs_nothing(bench: Bench, tmp_path: Path) -> None:
    """A file of the worker's own disk is no affair of the store's, and is not tried for ever."""
    source = "import os, pathlib\nfor n in 'abc': pathlib.Path(n).write_text(n)\n"
    first = bench.worker.store.put_artifact

    def vanishing(experiment_id: str, attempt: int, tag: str, path: str, file: Path) -> None:
        if path == "b":
            file.resolve().unlink()
            raise StoreError("The store does not answer.")
        first(experiment_id, attempt, tag, path, file)

    bench.worker.store.put_artifact = vanishing  # type: ignore[method-assign]
    one = bench.run(source, captures=(Capture(path=".", tag="all"),))
    state = bench.ended(one)
    assert state.status is Status.FINISHED
    kept = {item.key for item in bench.store.artifact_files(one, 1)}
    assert {"all/a", "all/c"} <= kept
    assert "all/b" not in kept


def test_a_log_without_end_and_a_name_that_no_store_holds_keep_no_attempt_alive(bench: Bench) -> None:
    """A script may do both to its own files; neither may hold its worker for ever, nor fill the store."""
    source = (
        "import os, time\n"
        "folder = os.environ['STUDIO_ARTIFACTS']\n"
        "log = os.path.join(folder, '..', 'io', 'log')\n"
        "for name in ('a', 'n' * 254): open(os.path.join(folder, name), 'w').close()\n"
        "print('said', flush=True)\n"
        "while os.path.getsize(log) < len('said\\n'): time.sleep(0.01)\n"
        "os.truncate(log, 1 << 30)\n"
    )
    state = bench.ended(one := bench.run(source))
    assert (state.status, len(state.attempts)) == (Status.FINISHED, 1)
    output = read_log(bench.store, one)
    assert output.rstrip(b"\0") == b"said\n"
    assert len(output) < MIB
    journal = bench.store.journal(one)
    journal.refresh()
    assert journal.entries[-1].data["left_out"] == ["output/" + "n" * 254]
    assert [item.key for item in bench.store.artifact_files(one, 1)] == ["output/a"]


def test_random_faults_cost_no_output_and_make_one_end(bench: Bench) -> None:
    """Errors before and after calls, slow ones, and creates that find their own object."""
    bench.worker.places.concurrency = 6
    source = "import time\nfor n in range(100):\n    print(n, flush=True)\n    time.sleep(0.003)\n"
    bench.faults.set_chance(Chance(seed=11, error=0.1, lost=0.1, repeated=0.1, slow=0.1, slow_seconds=0.02))
    ids = [bench.run(source, max_attempts=50) for _ in range(6)]
    for one in ids:
        state = bench.ended(one)
        assert state.status is Status.FINISHED, (state.reason, bench.kinds(one))
        assert len(ENDS & set(bench.kinds(one))) == 1
        assert read_log(bench.store, one).split() == [b"%d" % n for n in range(100)]
    assert {hit.split()[0] for hit in bench.faults.hits()} == {"error", "lost", "repeated", "slow"}


def test_an_owner_that_was_superseded_during_the_outage_ends_what_runs_and_writes_nothing(bench: Bench) -> None:
    one = bench.run("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n")
    bench.said(one, b"\n")
    pid = int(read_log(bench.store, one))
    bench.faults.cut()
    journal = bench.store.journal(one)
    assert journal.decide(Kind.LOST, "other", attempt=1, reason="worker lost: test")
    assert journal.decide(Kind.CLAIMED, "other", attempt=2, host="elsewhere")
    assert alive(pid)
    bench.faults.heal()
    wait_for("the end of the script", lambda: not alive(pid))
    wait_for("its leaving", lambda: not bench.worker.running)
    assert bench.kinds(one)[-1] == "claimed"
    assert journal.decide(Kind.STOP_REQUESTED, "alice")
    assert journal.decide(Kind.STOPPED, "other", epoch=journal.state.owner_epoch, reason="stopped by alice")


def test_a_directory_that_goes_away_is_an_outage_and_no_new_store(bench: Bench, tmp_path: Path) -> None:
    """As when a disk is not mounted for a while: what is written into its place would be lost, the end included."""
    one = bench.run(gated(tmp_path / "go"))
    bench.said(one, b"line 0\n")
    (tmp_path / "store").rename(tmp_path / "away")
    (tmp_path / "go").touch()
    wait_for("the script's end", (host_log(bench, one).parent / "exit.json").exists)
    assert not (tmp_path / "store").exists()
    (tmp_path / "away").rename(tmp_path / "store")
    assert bench.ended(one).status is Status.FINISHED
    assert read_log(bench.store, one) == b"line 0\nline 1\n"


FLOOD = """
import os
for n in range({count}):
    os.write(1, b"".join(b"%06d" % (64 * n + i) + b"x" * 1017 + b"\\n" for i in range(64)))
print("end")
"""


def test_what_is_stored_is_freed_on_the_host_while_the_script_runs(tmp_path: Path) -> None:
    """100 MB of output in a spool of 64: nothing is lost, and the disk never holds more."""
    bench = Bench(tmp_path, log_spool_bytes=64 * MIB, log_hold_seconds=60.0)
    try:
        one = bench.run(FLOOD.format(count=1600))
        log, most = host_log(bench, one), 0

        def over() -> bool:
            nonlocal most
            if log.exists():
                most = max(most, log.stat().st_blocks * 512)
            return bool(bench.state(one).status.terminal)

        wait_for("the end", over, 240)
        assert bench.ended(one).status is Status.FINISHED
        assert 0 < most <= 68 * MIB
        lines = read_log(bench.store, one).split(b"\n")
        assert len(lines) == 1600 * 64 + 2
        assert all(line[:6] == b"%06d" % n for n, line in enumerate(lines[:-2]))
    finally:
        bench.close()


def test_in_a_long_outage_the_spool_is_bounded_and_the_script_goes_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, log_spool_bytes=64 * MIB, log_hold_seconds=0.2)
    try:
        gate = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)\n"
        one = bench.run("print('first', flush=True)\n" + gate + FLOOD.format(count=1600))
        bench.said(one, b"first\n")
        bench.faults.cut()
        (tmp_path / "go").touch()
        wait_for("the script's end", (host_log(bench, one).parent / "exit.json").exists)
        assert host_log(bench, one).stat().st_blocks * 512 <= 66 * MIB
        bench.faults.heal()
        assert bench.ended(one).status is Status.FINISHED
        log = read_log(bench.store, one)
        assert log.startswith(b"first\n000000x")
        assert log.count(b"[studio] ") == 1
        assert b"bytes of output were lost: this worker's disk" in log
        assert log.endswith(b"x\nend\n")
    finally:
        bench.close()


def test_a_script_that_prints_faster_than_the_store_takes_is_stopped_like_any_other(tmp_path: Path) -> None:
    bench = Bench(tmp_path, log_spool_bytes=64 * MIB)
    try:
        bench.faults.add(Fault("slow", method="put", key="*/log/*", seconds=0.1))
        one = bench.run("import os\nprint('on', flush=True)\nwhile True: os.write(1, b'x' * 65535 + b'\\n')\n")
        bench.said(one, b"on\n")
        assert bench.store.journal(one).decide(Kind.STOP_REQUESTED, "alice")
        assert bench.ended(one).reason == "stopped by alice"
    finally:
        bench.close()

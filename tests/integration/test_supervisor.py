"""The life of attempts over a real store and real processes, without a broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from studio import alive, environment, quick_settings, read_log, submit, wait_for

from studio_celery.errors import StoreError, UnknownExperiment
from studio_celery.experiment import Capture, Resources, Status
from studio_celery.journal import Kind
from studio_celery.runtimes import make_runtime
from studio_celery.store import Store
from studio_celery.supervisor import Deferred, Detached, Ended, Supervisor


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def supervisor(tmp_path: Path, store: Store) -> Iterator[Supervisor]:
    settings = quick_settings(tmp_path / "home")
    one = Supervisor(store, make_runtime(settings), settings)
    yield one
    one.detach()
    one.close()


def outcome(supervisor: Supervisor, experiment_id: str) -> dict[str, Any]:
    result = supervisor.handle(experiment_id)
    assert isinstance(result, Ended), result
    return dict(result.record)


def kinds(store: Store, experiment_id: str) -> list[str]:
    journal = store.journal(experiment_id)
    journal.refresh()
    return [entry.kind.value for entry in journal.entries]


def test_a_script_runs_to_its_end(supervisor: Supervisor, store: Store, tmp_path: Path) -> None:
    source = "import sys\nprint('out', sys.argv[1:])\nprint('err', file=sys.stderr)\n"
    one = submit(store, tmp_path, source, "--lr", "0.1", "ä b", "'\"", "")
    record = outcome(supervisor, one)
    assert (record["status"], record["exit_code"], record["reason"]) == ("finished", 0, "")
    assert read_log(store, one).decode() == "out ['--lr', '0.1', 'ä b', '\\'\"', '']\nerr\n"
    assert kinds(store, one) == ["submitted", "queued", "claimed", "started", "finished"]


def test_nothing_is_left_on_the_worker(supervisor: Supervisor, store: Store, tmp_path: Path) -> None:
    outcome(supervisor, submit(store, tmp_path, "print(1)"))
    run = tmp_path / "home" / "run"
    assert sorted(path.name for path in run.iterdir() if path.name not in ("workers", "cards")) == []


@pytest.mark.parametrize(
    ("source", "reason", "code"),
    [
        ("raise SystemExit(3)", "exit code 3", 3),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9", 137),
        ("1/0", "exit code 1", 1),
    ],
)
def test_a_script_that_fails_says_how(
    supervisor: Supervisor, store: Store, tmp_path: Path, source: str, reason: str, code: int
) -> None:
    record = outcome(supervisor, submit(store, tmp_path, source))
    assert (record["status"], record["reason"], record["exit_code"]) == ("failed", reason, code)


def test_a_late_delivery_returns_the_record_and_runs_nothing(
    supervisor: Supervisor, store: Store, tmp_path: Path
) -> None:
    one = submit(store, tmp_path, "print(1)")
    first = outcome(supervisor, one)
    assert outcome(supervisor, one) == first


def test_two_deliveries_at_once_run_one_attempt(supervisor: Supervisor, store: Store, tmp_path: Path) -> None:
    supervisor.places.concurrency = 4
    one = submit(store, tmp_path, "import time; time.sleep(0.5); print('once')")
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(supervisor.handle(one))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(result, Ended) for result in results) >= 1
    assert kinds(store, one).count("claimed") == 1
    assert read_log(store, one) == b"once\n"


def test_artifacts_and_captures_are_kept(supervisor: Supervisor, store: Store, tmp_path: Path) -> None:
    source = (
        "import os, pathlib\n"
        "kept = pathlib.Path(os.environ['STUDIO_ARTIFACTS'])\n"
        "(kept / 'model.bin').write_bytes(b'12345')\n"
        "(kept / 'plots').mkdir()\n"
        "(kept / 'plots' / 'a.png').write_bytes(b'png')\n"
        "(kept / 'link').symlink_to('/etc/passwd')\n"
        "pathlib.Path('log').mkdir()\n"
        "pathlib.Path('log/x.txt').write_text('x')\n"
    )
    one = submit(store, tmp_path, source, captures=(Capture(path="log", tag="logs"), Capture(path="../..", tag="out")))
    record = outcome(supervisor, one)
    assert record["artifacts"] == [
        {"tag": "logs", "files": 1, "bytes": 1},
        {"tag": "output", "files": 1, "bytes": 5},
        {"tag": "plots", "files": 1, "bytes": 3},
    ]
    assert [item.key for item in store.artifact_files(one, 1)] == ["logs/x.txt", "output/model.bin", "plots/a.png"]


def test_a_stop_while_it_runs_ends_the_whole_process_tree(supervisor: Supervisor, store: Store, tmp_path: Path) -> None:
    source = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\ntime.sleep(600)\n"
    )
    one = submit(store, tmp_path, source)
    thread = threading.Thread(target=supervisor.handle, args=(one,))
    thread.start()
    journal = store.journal(one)
    wait_for("the start", lambda: journal.refresh().status is Status.RUNNING)
    child = int(wait_for("the child's pid", lambda: read_log(store, one).endswith(b"\n") and read_log(store, one)))
    assert journal.decide(Kind.STOP_REQUESTED, "alice")
    thread.join(60)
    state = journal.refresh()
    assert (state.status, state.reason) == (Status.STOPPED, "stopped by alice")
    assert not alive(child)


def test_a_stop_before_any_worker_came_runs_nothing(supervisor: Supervisor, store: Store, tmp_path: Path) -> None:
    one = submit(store, tmp_path, "print(1)")
    assert store.journal(one).decide(Kind.STOP_REQUESTED, "alice")
    assert outcome(supervisor, one)["status"] == "stopped"
    assert "claimed" not in kinds(store, one)


def test_a_script_that_runs_too_long_is_stopped(supervisor: Supervisor, store: Store, tmp_path: Path) -> None:
    one = submit(store, tmp_path, "import time; time.sleep(600)", max_duration_seconds=0.5)
    record = outcome(supervisor, one)
    assert (record["status"], record["reason"]) == ("failed", "ran past --max-duration 0.5s")


def test_retries_are_attempts_of_the_same_experiment(store: Store, tmp_path: Path) -> None:
    # More than what follows the end of an attempt takes.
    settings = quick_settings(tmp_path / "home", retry_seconds=3.0)
    source = "import os, sys; print(os.environ['STUDIO_ATTEMPT']); sys.exit(os.environ['STUDIO_ATTEMPT'] != '2')"
    one = submit(store, tmp_path, source, retries=2)
    with closing(Supervisor(store, make_runtime(settings), settings)) as supervisor:
        paused = supervisor.handle(one)
        assert isinstance(paused, Deferred)
        assert 0 < paused.seconds <= settings.retry_seconds
        time.sleep(paused.seconds + 0.1)  # the store's clock is not this one
        record = outcome(supervisor, one)
    assert record["status"] == "finished"
    assert [attempt["exit_code"] for attempt in record["attempts"]] == [1, 0]
    assert (read_log(store, one, 0), read_log(store, one, 1)) == (b"1\n", b"2\n")


def test_what_does_not_fit_is_deferred_with_a_note(supervisor: Supervisor, store: Store, tmp_path: Path) -> None:
    one = submit(store, tmp_path, "print(1)", resources=Resources(gpus=8))
    result = supervisor.handle(one)
    assert isinstance(result, Deferred)
    assert "cards" in result.why
    assert store.workers()[0]["cannot_take"][one] == result.why


def test_an_unknown_experiment_is_refused(supervisor: Supervisor) -> None:
    with pytest.raises(UnknownExperiment):
        supervisor.handle("01a203ec-0000-7000-8000-000000000000")


def test_an_experiment_of_another_store_is_left_for_a_worker_that_reads_it(supervisor: Supervisor) -> None:
    result = supervisor.handle("01a203ec-0000-7000-8000-000000000000", "gs://elsewhere")
    assert isinstance(result, Deferred)
    assert "gs://elsewhere" in result.why


def test_a_workspace_that_is_missing_fails_the_experiment(supervisor: Supervisor, store: Store, tmp_path: Path) -> None:
    one = submit(store, tmp_path, "print(1)")
    blob = store.objects.listing("blobs")[0]
    store.objects.delete(blob.key)
    record = outcome(supervisor, one)
    assert record["status"] == "failed"
    assert "workspace missing" in record["reason"]


def test_a_detached_run_goes_on_and_is_adopted(supervisor: Supervisor, store: Store, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    source = (
        "import os, time\nprint('before', flush=True)\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.02)\nprint('after')\n"
    )
    one = submit(store, tmp_path, source)
    caught: list[BaseException] = []

    def handle() -> None:
        try:
            supervisor.handle(one)
        except Detached as exc:
            caught.append(exc)

    thread = threading.Thread(target=handle)
    thread.start()
    wait_for("its output", lambda: store.journal(one).refresh().live and read_log(store, one) == b"before\n")
    assert supervisor.detach() == [one]
    thread.join(60)
    assert caught
    supervisor.close()
    settings = quick_settings(tmp_path / "home")
    second = Supervisor(store, make_runtime(settings), settings)
    second.start()
    wait_for("the adoption", lambda: "adopted" in kinds(store, one))
    gate.touch()
    wait_for("the end", lambda: store.journal(one).refresh().status is Status.FINISHED)
    second.detach()
    second.close()
    assert read_log(store, one) == b"before\nafter\n"
    assert kinds(store, one).count("claimed") == 1


WORKER = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from studio_celery import settings
from studio_celery.runtimes import make_runtime
from studio_celery.store import Store
from studio_celery.supervisor import Supervisor
options = settings.load()
supervisor = Supervisor(Store({store!r}), make_runtime(options), options)
print(supervisor.identity.id, flush=True)
supervisor.handle({experiment!r})
"""


@contextmanager
def start_worker(tmp_path: Path, store: Store, experiment_id: str) -> Iterator[subprocess.Popen[str]]:
    """A worker process without a broker that looks after one experiment, and is dead in the end."""
    code = WORKER.format(tests=str(Path(__file__).parents[1]), store=store.url, experiment=experiment_id)
    variables = {**os.environ, **environment(tmp_path / "home", runtime="process", gpus="none")}
    with subprocess.Popen([sys.executable, "-c", code], env=variables, stdout=subprocess.PIPE, text=True) as worker:
        try:
            yield worker
        finally:
            worker.kill()


def test_the_run_of_a_killed_worker_is_adopted_without_a_gap(
    supervisor: Supervisor, store: Store, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    source = (
        "import itertools, os, time\n"
        "for n in itertools.count():\n"
        "    print(n, flush=True)\n"
        "    time.sleep(0.005)\n"
        f"    if os.path.exists({str(gate)!r}): break\n"
    )
    one = submit(store, tmp_path, source)
    with start_worker(tmp_path, store, one) as worker:
        wait_for("its output", lambda: store.journal(one).refresh().live and len(read_log(store, one)) > 200)
        os.kill(worker.pid, signal.SIGKILL)
    supervisor.start()
    wait_for("the adoption", lambda: "adopted" in kinds(store, one))
    gate.touch()
    state = wait_for("the end", lambda: (s := store.journal(one).refresh()).status.terminal and s)
    assert (state.status, len(state.attempts)) == (Status.FINISHED, 1)
    numbers = [int(line) for line in read_log(store, one).split()]
    assert numbers == list(range(len(numbers)))


def test_a_killed_worker_whose_script_died_too_costs_an_attempt(
    supervisor: Supervisor, store: Store, tmp_path: Path
) -> None:
    source = "import os, time\nprint(os.getpid(), os.environ['STUDIO_ATTEMPT'], flush=True)\n"
    source += "time.sleep(600 if os.environ['STUDIO_ATTEMPT'] == '1' else 0)\n"
    one = submit(store, tmp_path, source)
    with start_worker(tmp_path, store, one) as worker:
        wait_for("its output", lambda: store.journal(one).refresh().live and read_log(store, one).endswith(b"1\n"))
        os.kill(worker.pid, signal.SIGKILL)
    for folder in (tmp_path / "home" / "run" / one / "1" / "io").glob("pid.json"):
        os.kill(json.loads(folder.read_text())["pid"], signal.SIGKILL)
    os.kill(int(read_log(store, one).split()[0]), signal.SIGKILL)
    record = outcome(supervisor, one)
    assert record["status"] == "finished"
    assert [attempt["status"] for attempt in record["attempts"]] == ["lost", "finished"]
    assert record["attempts"][0]["reason"].startswith("worker lost")


def test_an_attempt_that_somebody_else_took_over_is_stopped_and_writes_nothing_more(
    supervisor: Supervisor, store: Store, tmp_path: Path
) -> None:
    one = submit(store, tmp_path, "import time; print('first', flush=True); time.sleep(600)")
    thread = threading.Thread(target=supervisor.handle, args=(one,))
    thread.start()
    journal = store.journal(one)
    wait_for("its output", lambda: journal.refresh().live and read_log(store, one) == b"first\n")
    assert journal.decide(Kind.LOST, "other", attempt=1, reason="worker lost: test")
    assert journal.decide(Kind.CLAIMED, "other", attempt=2, host="elsewhere")
    wait_for("the end of the process", lambda: not supervisor.running)
    thread.join(60)
    state = journal.refresh()
    assert state.live is not None
    assert (state.live.number, state.live.worker) == (2, "other")


class Moody(Store):
    """A store that does not answer when a test says so."""

    def __init__(self, url: str, refuses: Callable[[str, bytes], bool]) -> None:
        super().__init__(url)
        create = self.objects.create

        def moody(key: str, data: bytes) -> bool:
            if refuses(key, data):
                raise StoreError("The store does not answer.")
            return create(key, data)

        self.objects.create = moody  # type: ignore[method-assign]


def test_a_start_that_the_store_refuses_to_note_is_looked_after_all_the_same(store: Store, tmp_path: Path) -> None:
    refusals = iter([True, True])
    moody = Moody(store.url, lambda key, data: b'"started"' in data and next(refusals, False))
    settings = quick_settings(tmp_path / "home")
    supervisor = Supervisor(moody, make_runtime(settings), settings)
    one = submit(store, tmp_path, "import time; time.sleep(0.3); print('once')")
    record = outcome(supervisor, one)
    supervisor.close()
    assert (record["status"], len(record["attempts"])) == ("finished", 1)
    assert read_log(store, one) == b"once\n"


def test_a_defect_right_after_the_start_leaves_nothing_running(store: Store, tmp_path: Path) -> None:
    def broken(key: str, data: bytes) -> bool:
        if b'"started"' in data:
            raise ValueError("a defect of ours")
        return False

    settings = quick_settings(tmp_path / "home")
    supervisor = Supervisor(Moody(store.url, broken), make_runtime(settings), settings)
    one = submit(store, tmp_path, "import time; time.sleep(600)")
    result = supervisor.handle(one)
    left = supervisor.runtime.find()
    supervisor.close()
    assert isinstance(result, Deferred)
    assert "a defect of ours" in result.why
    assert kinds(store, one)[-1] == "released"
    assert left == []


def test_an_error_that_nobody_thought_of_defers(supervisor: Supervisor, store: Store, tmp_path: Path) -> None:
    one = submit(store, tmp_path, "print(1)", resources=Resources(gpus=0))

    def broken() -> None:
        raise ValueError("a defect of ours")

    supervisor.runtime.check = broken  # type: ignore[method-assign]
    result = supervisor.handle(one)
    assert isinstance(result, Deferred)
    assert "a defect of ours" in result.why
    assert store.journal(one).refresh().status is Status.WAITING


def test_artifacts_may_be_called_anything(supervisor: Supervisor, store: Store, tmp_path: Path) -> None:
    names = [b"run#3", b"line\nbreak", b"tab\there", b"\xff\xfe", b"100%", b"plain", b"a%0Ab"]
    source = (
        "import os\nkept = os.fsencode(os.environ['STUDIO_ARTIFACTS'])\n"
        f"for name in {names!r}: open(os.path.join(kept, name), 'wb').write(name)\n"
        "os.makedirs(os.path.join(kept, b'output'))\n"
        "open(os.path.join(kept, b'output', b'plain'), 'wb').write(b'in the way')\n"
    )
    one = submit(store, tmp_path, source)
    record = outcome(supervisor, one)
    assert record["status"] == "finished"
    found = {item.key: b"".join(store.artifact_stream(one, 1, item.key)) for item in store.artifact_files(one, 1)}
    assert {f"output/{os.fsdecode(name)}" for name in names} == found.keys()
    assert all(
        content == os.fsencode(key.removeprefix("output/")) for key, content in found.items() if "plain" not in key
    )
    assert store.journal(one).refresh().artifacts[0]["files"] == len(names)


@pytest.mark.parametrize("why", ["cards", "race", "store"])
def test_a_claim_that_did_not_happen_leaves_a_worker_its_single_run(
    supervisor: Supervisor, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """Else it would wait for ever for the end of a run that it may not begin."""
    supervisor.places.allowance = 1
    one, other = (submit(store, tmp_path, "print(1)", resources=Resources(gpus=n)) for n in (int(why == "cards"), 0))
    if why == "cards":
        monkeypatch.setattr(supervisor.fitness, "refuses", lambda experiment: None)
        monkeypatch.setattr(supervisor.cards, "reserve", lambda *_: None)
    create = supervisor.store.objects.create

    def refused(key: str, data: bytes) -> bool:
        if one not in key or b'"claimed"' not in data:
            return create(key, data)
        if why == "store":
            raise StoreError("The store does not answer.")
        assert store.journal(one).decide(Kind.CLAIMED, "elsewhere", attempt=1, host="elsewhere")
        return False

    with monkeypatch.context() as patch:
        patch.setattr(supervisor.store.objects, "create", refused)
        assert isinstance(supervisor.handle(one), Deferred)
    assert outcome(supervisor, other)["status"] == "finished"
    assert (supervisor.places.allowance, supervisor.looked_after) == (0, 1)


def test_a_worker_for_a_single_run_begins_no_second_one(supervisor: Supervisor, store: Store, tmp_path: Path) -> None:
    supervisor.places.concurrency, supervisor.places.allowance = 4, 1
    ids = [submit(store, tmp_path, "print(1)") for _ in range(4)]
    results: list[object] = []
    threads = [threading.Thread(target=lambda one=one: results.append(supervisor.handle(one))) for one in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(result, Ended) for result in results) == 1
    assert sum("claimed" in kinds(store, one) for one in ids) == 1

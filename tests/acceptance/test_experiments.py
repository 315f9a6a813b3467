"""The main job with real processes: broker, workers, commands, containers, signals."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import BIN, Studio
from studio import read_log, wait_for

from studio_celery.experiment import Status
from studio_celery.journal import Kind
from studio_celery.runtimes import make_runtime
from studio_celery.settings import load

#: Arguments that a careless command would take, split, quote or decode.
HOSTILE = ("--queue", "other", "-q", "--help", "a b", "'", '"', "$HOME", "*", "", "--", "grüße 🎉", "line\nbreak", "\\")


def test_two_experiments_one_after_the_other(studio: Studio) -> None:
    studio.broker()
    studio.worker("q")
    script = studio.script("import sys\nfor n in range(2000): print(sys.argv[1], n)\n")
    ids = [studio.submit("--queue", "q", script, name) for name in ("first", "second")]
    for experiment, name in zip(ids, ("first", "second"), strict=True):
        record = studio.ended(experiment)
        assert (record["status"], record["exit_code"], len(record["attempts"])) == ("finished", 0, 1)
        assert studio.log(experiment).decode() == "".join(f"{name} {n}\n" for n in range(2000))
    listed = json.loads(studio.command("studio", "ls", "--json").stdout)
    assert [record["id"] for record in listed] == ids[::-1]


def test_a_script_that_fails(studio: Studio) -> None:
    studio.broker()
    studio.worker("q")
    experiment = studio.submit("--queue", "q", studio.script("print('so far'); raise SystemExit(7)"))
    record = studio.ended(experiment)
    assert (record["status"], record["reason"], record["exit_code"]) == ("failed", "exit code 7", 7)
    assert "failed: exit code 7" in studio.command("studio", "show", experiment).stdout


def test_arguments_reach_the_script_unchanged(studio: Studio) -> None:
    studio.broker()
    studio.worker("q")
    script = studio.script("import json, sys; print(json.dumps(sys.argv[1:]))")
    experiment = studio.submit("--queue", "q", script, *HOSTILE)
    studio.ended(experiment)
    assert json.loads(studio.log(experiment)) == list(HOSTILE)
    assert studio.show(experiment)["args"] == list(HOSTILE)


@pytest.mark.docker
def test_files_that_the_script_wrote_are_not_roots(docker_studio: Studio) -> None:
    studio = docker_studio
    studio.broker()
    studio.worker("q")
    source = (
        "import os, pathlib\nprint(os.getuid())\n"
        "pathlib.Path('made').write_text('x')\nprint(os.stat('made').st_uid, os.stat('.').st_uid)\n"
        "pathlib.Path(os.environ['STUDIO_ARTIFACTS'], 'kept').write_text('x')\n"
    )
    experiment = studio.submit("--queue", "q", studio.script(source))
    assert studio.ended(experiment)["status"] == "finished"
    owners = {int(word) for word in studio.log(experiment).split()}
    assert owners == {os.getuid() or 65534}


def test_the_submitter_may_be_killed_before_any_worker_was_started(studio: Studio) -> None:
    studio.broker()
    script = studio.script("print('ran')")
    argv = [str(BIN / "studio-runner"), "--queue", "new", "--wait", script]
    with subprocess.Popen(
        argv, env=studio.environ, cwd=studio.work, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as runner:
        assert runner.stdout is not None
        experiment = runner.stdout.readline().strip()
        runner.send_signal(signal.SIGKILL)
    studio.worker("new")
    assert studio.ended(experiment)["status"] == "finished"
    assert studio.log(experiment) == b"ran\n"


def test_the_run_of_a_killed_worker_goes_on_with_the_next(studio: Studio) -> None:
    studio.environ["STUDIO_PATIENCE_FLOOR_SECONDS"] = "30"  # whoever adopts it is not silent for so long, however busy
    studio.broker()
    worker = studio.worker("q")
    script = studio.script(
        "import os, time\n"
        "n = 0\n"
        "while not os.path.exists(os.environ['STUDIO_ARTIFACTS'] + '/stop') and n < 60_000:\n"
        "    print(n, flush=True); n += 1; time.sleep(0.01)\n"
    )
    experiment = studio.submit("--queue", "q", script)
    journal = studio.store.journal(experiment)
    wait_for("its output", lambda: journal.refresh().live and len(read_log(studio.store, experiment)) > 100)
    (before,) = handles(studio)
    studio.kill(worker)
    together = [studio.start("studio-start-remote-worker", "q") for _ in range(2)]
    for one in together:
        studio.wait_until_ready(one)
    wait_for("the adoption", lambda: journal.refresh().live and len(journal.state.live.log_epochs) == 2)
    assert [handle.ref for handle in handles(studio)] == [before.ref]
    (before.directory / "artifacts" / "stop").touch()
    record = studio.ended(experiment)
    assert (record["status"], [a["number"] for a in record["attempts"]]) == ("finished", [1])
    numbers = [int(line) for line in studio.log(experiment).split()]
    assert numbers == list(range(len(numbers)))
    wait_for("the clean-up", lambda: not handles(studio))
    journal.refresh()
    assert [entry.kind for entry in journal.entries].count(Kind.ADOPTED) == 1


def test_a_run_that_died_with_its_worker_starts_again(studio: Studio) -> None:
    studio.broker()
    worker = studio.worker("q")
    source = "import os, time\nprint(os.environ['STUDIO_ATTEMPT'], flush=True)\n"
    script = studio.script(source + "time.sleep(600 if os.environ['STUDIO_ATTEMPT'] == '1' else 0)\n")
    experiment = studio.submit("--queue", "q", script)
    journal = studio.store.journal(experiment)
    wait_for("its output", lambda: journal.refresh().live and read_log(studio.store, experiment) == b"1\n")
    studio.kill(worker)
    runtime = make_runtime(load(environ=studio.environ))
    (handle,) = runtime.find()
    runtime.stop(handle, 0)
    runtime.remove(handle)
    studio.worker("q")
    record = studio.ended(experiment)
    assert [a["status"] for a in record["attempts"]] == ["lost", "finished"]
    assert studio.log(experiment) == b"2\n"


def test_an_experiment_is_stopped_by_a_command(studio: Studio) -> None:
    studio.broker()
    studio.worker("q")
    experiment = studio.submit("--queue", "q", studio.script("import time\nwhile True: time.sleep(1)"))
    wait_for("its start", lambda: studio.status(experiment) is Status.RUNNING)
    assert studio.command("studio", "stop", experiment[:20], STUDIO_OWNER="alice").returncode == 0
    record = studio.ended(experiment)
    assert (record["status"], record["reason"]) == ("stopped", "stopped by alice")
    wait_for("the clean-up", lambda: not handles(studio))


def test_what_waits_is_stopped_without_broker_or_worker(process_studio: Studio) -> None:
    studio = process_studio
    broker = studio.broker()
    experiment = studio.submit("--queue", "q", studio.script("print(1)"))
    studio.kill(broker)
    assert studio.command("studio", "stop", experiment).returncode == 0
    assert studio.show(experiment)["status"] == "stopped"


def test_waiting_follows_the_log_and_gives_the_scripts_exit_code(process_studio: Studio) -> None:
    studio = process_studio
    studio.broker()
    studio.worker("q")
    done = studio.command(
        "studio-runner", "--queue", "q", "--wait", studio.script("print('hello'); raise SystemExit(5)")
    )
    experiment, *rest = done.stdout.splitlines()
    assert (done.returncode, rest) == (5, ["hello"])
    assert f"{experiment} is failed: exit code 5" in done.stderr


def test_celerys_own_command_and_tasks_from_code(process_studio: Studio) -> None:
    studio = process_studio
    studio.broker()
    celerys_own(studio)
    studio.script("import sys; print(sys.argv[1:]); sys.exit(len(sys.argv) - 2)", "train.py")
    program = (
        "from studio_celery import ExperimentFailed, run_experiment\n"
        "good = run_experiment.delay('train.py', ['a b'], queue='q', name='good')\n"
        "bad = run_experiment.delay('train.py', ['x', 'y'], queue='q')\n"
        "record = good.get(timeout=60)\n"
        "print(record['id'] == good.id, record['status'], record['name'], good.state)\n"
        "try: bad.get(timeout=60)\n"
        "except ExperimentFailed as exc: print(exc.reason, exc.exit_code, bad.state)\n"
        "try: run_experiment.delay('train.py', [], gpu=1)\n"
        "except TypeError as exc: print(type(exc).__name__)\n"
    )
    done = studio.command("python", "-c", program)
    assert done.stdout.splitlines() == ["True finished good SUCCESS", "exit code 1 1 FAILURE", "TypeError"], done.stderr


def test_a_broker_that_was_killed_and_started_again_loses_nothing(process_studio: Studio) -> None:
    studio = process_studio
    broker = studio.broker()
    port = int(studio.environ["STUDIO_BROKER_URL"].split(":")[2].split("/")[0])
    script = studio.script("import sys; print(sys.argv[1])")
    ids = [studio.submit("--queue", "q", script, str(n)) for n in range(3)]
    studio.kill(broker)
    studio.broker(port)
    studio.worker("q")
    for experiment, number in zip(ids, itertools.count()):
        assert studio.ended(experiment)["status"] == "finished"
        assert studio.log(experiment) == f"{number}\n".encode()


def test_a_worker_that_is_told_to_stop_finishes_what_runs_and_takes_nothing_more(process_studio: Studio) -> None:
    studio = process_studio
    studio.broker()
    worker = celerys_own(studio)
    gate = studio.folder / "gate"
    waiting = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.02)\n"
    first, second = (studio.submit("--queue", "q", studio.script(waiting, name)) for name in ("a.py", "b.py"))
    wait_for("its start", lambda: Status.RUNNING in (studio.status(first), studio.status(second)))
    running, other = (first, second) if studio.status(first) is Status.RUNNING else (second, first)
    worker.send_signal(signal.SIGTERM)
    wait_for("its answer", lambda: "finishing what runs" in studio.output(worker, "err"))
    gate.touch()
    assert worker.wait(60) == 0
    assert (studio.status(running), studio.status(other)) == (Status.FINISHED, Status.WAITING)
    studio.worker("q")
    assert studio.ended(other)["status"] == "finished"


def celerys_own(studio: Studio) -> subprocess.Popen[str]:
    """A worker that Celery's own command started."""
    worker = studio.start("celery", "-A", "studio_celery", "worker", "-Q", "q", "--loglevel", "info")
    studio.wait_until_ready(worker)
    return worker


@pytest.mark.parametrize(
    ("start", "signals"),
    [
        (lambda studio: studio.worker("q"), (signal.SIGINT,)),
        (celerys_own, (signal.SIGQUIT,)),
        (celerys_own, (signal.SIGTERM, signal.SIGTERM)),
    ],
)
def test_a_worker_leaves_experiments_running_and_the_next_adopts_them(
    process_studio: Studio, start: Callable[[Studio], subprocess.Popen[str]], signals: tuple[signal.Signals, ...]
) -> None:
    studio = process_studio
    studio.broker()
    worker = start(studio)
    gate = studio.folder / "gate"
    waiting = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.02)\n"
    experiment = studio.submit("--queue", "q", studio.script(waiting))
    wait_for("its start", lambda: studio.status(experiment) is Status.RUNNING)
    for number, one in enumerate(signals):
        if number:
            wait_for("its answer", lambda: "finishing what runs" in studio.output(worker, "err"))
        worker.send_signal(one)
    assert worker.wait(60) == 0
    assert len(handles(studio)) == 1
    studio.worker("q")
    gate.touch()
    record = studio.ended(experiment)
    assert (record["status"], len(record["attempts"])) == ("finished", 1)


def test_a_worker_begins_anew_at_sighup_and_adopts_what_it_left(process_studio: Studio) -> None:
    studio = process_studio
    studio.broker()
    worker = celerys_own(studio)
    gate = studio.folder / "gate"
    waiting = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.02)\n"
    experiment = studio.submit("--queue", "q", studio.script(waiting))
    wait_for("its start", lambda: studio.status(experiment) is Status.RUNNING)
    worker.send_signal(signal.SIGHUP)
    journal = studio.store.journal(experiment)
    wait_for("the adoption", lambda: journal.refresh().live and len(journal.state.live.log_epochs) == 2)
    gate.touch()
    record = studio.ended(experiment)
    assert (record["status"], len(record["attempts"])) == ("finished", 1)
    assert worker.poll() is None


@pytest.mark.parametrize(
    "argv",
    [("studio-start-remote-worker", "q"), ("celery", "-A", "studio_celery", "worker", "-Q", "q")],
    ids=["ours", "celerys"],
)
def test_a_worker_that_starts_outlives_a_reload_and_obeys_a_stop(process_studio: Studio, argv: tuple[str, ...]) -> None:
    studio = process_studio
    studio.broker()
    (studio.work / "hang.py").write_text(
        "import pathlib, time\n"
        "studio_project = 'x'\n"
        "from studio_celery.client import Client\n"
        "from studio_celery.store import Store\n"
        "def hanging(self):\n"
        "    pathlib.Path('here').touch()\n"
        "    time.sleep(600)\n"
        "Client.check_broker = Store.check = hanging\n"
    )
    worker = studio.start(*argv, STUDIO_CONFIG="hang.py")
    wait_for("its first question", (studio.work / "here").exists)
    worker.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(0.5)
    worker.send_signal(signal.SIGQUIT)
    assert worker.wait(60) == 0


def test_a_worker_that_leaves_does_not_wait_for_what_does_not_answer(process_studio: Studio) -> None:
    """Its store hangs, and so does every thread that asks it: the process is gone all the same, with exit code 0."""
    studio = process_studio
    studio.broker()
    (studio.work / "hang.py").write_text(
        "import os, time\n"
        "studio_project = 'x'\n"
        "from studio_celery.store import Objects\n"
        "put = Objects.put\n"
        "def hanging(self, key, data):\n"
        "    while os.path.exists('hang'): time.sleep(0.01)\n"
        "    put(self, key, data)\n"
        "Objects.put = hanging\n"
    )
    worker = studio.start(
        "celery", "-A", "studio_celery", "worker", "-Q", "q", "--loglevel", "info",
        STUDIO_CONFIG="hang.py", STUDIO_LEAVE_SECONDS="1",
    )  # fmt: skip
    studio.wait_until_ready(worker)
    experiment = studio.submit("--queue", "q", studio.script("import time; time.sleep(600)"))
    wait_for("its start", lambda: studio.status(experiment) is Status.RUNNING)
    (studio.work / "hang").touch()
    before = studio.store.heartbeat_modified(experiment, 1)
    wait_for("silence", lambda: time.sleep(1.0) or studio.store.heartbeat_modified(experiment, 1) == before)
    worker.send_signal(signal.SIGQUIT)
    assert worker.wait(60) == 0
    assert "did not answer" in studio.output(worker, "err")
    assert len(handles(studio)) == 1


def test_up_runs_a_whole_studio(process_studio: Studio) -> None:
    studio = process_studio
    up = studio.start("studio", "up", "-q", "mine", STUDIO_BROKER_PORT="0", STUDIO_UI_PORT="0")
    wait_for("the studio", lambda: "ready http://" in studio.output(up))
    assert studio.command("studio", "ls").returncode == 0
    done = studio.command("studio-runner", "--queue", "mine", "--wait", studio.script("print('up')"))
    assert (done.returncode, done.stdout.splitlines()[1:]) == (0, ["up"]), done.stderr
    up.send_signal(signal.SIGINT)
    assert up.wait(60) == 0
    assert not (Path(studio.home) / "run" / "up.json").read_text()


def handles(studio: Studio) -> list[object]:
    """Attempts that are on this host."""
    return list(make_runtime(load(environ=studio.environ)).find())

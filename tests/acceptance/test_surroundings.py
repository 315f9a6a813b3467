"""What surrounds a studio and must not disturb it: other Celery projects, hostile configuration, closed terminals."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import grpc
import pytest
from google.pubsub_v1 import PublisherClient, types
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from processes import Studio
from studio import alive, wait_for

from studio_celery.experiment import Status

HOSTILE = """
studio_project = "ours"
accept_content = ["yaml"]
task_serializer = "pickle"
task_acks_late = False
task_acks_on_failure_or_timeout = False
task_reject_on_worker_lost = False
task_time_limit = 1
task_soft_time_limit = 1
task_default_rate_limit = "1/h"
task_ignore_result = True
task_annotations = {"*": {"rate_limit": "1/h", "acks_late": False, "time_limit": 1}}
worker_prefetch_multiplier = 50
broker_write_url = "memory://"
broker_read_url = "memory://"
worker_consumer = "celery.worker.consumer:Consumer"
imports = ["json"]
"""


@pytest.fixture
def studio(process_studio: Studio) -> Studio:
    process_studio.broker()
    return process_studio


def test_a_hostile_configuration_changes_nothing_that_matters(studio: Studio) -> None:
    (studio.work / "celeryconfig.py").write_text(HOSTILE)
    studio.worker("q")
    script = studio.script("import time; time.sleep(1.5); print('done')")
    ids = [studio.submit("--queue", "q", script) for _ in range(2)]
    for experiment in ids:
        record = studio.ended(experiment)
        assert (record["status"], record["project"], len(record["attempts"])) == ("finished", "ours", 1)


def test_the_variables_of_another_celery_project_do_not_matter(studio: Studio) -> None:
    studio.environ |= {"CELERY_BROKER_URL": "memory://", "CELERY_BROKER_WRITE_URL": "memory://"}
    studio.worker("q")
    experiment = studio.submit("--queue", "q", studio.script("print(1)"))
    assert studio.ended(experiment)["status"] == "finished"


def test_a_poisoned_message_goes_to_the_store_and_the_worker_goes_on(studio: Studio) -> None:
    studio.worker("q")
    url = studio.environ["STUDIO_BROKER_URL"]
    address, _, project = url.removeprefix("pubsub://").partition("/")
    with grpc.insecure_channel(address) as channel:
        publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        publisher.publish(
            topic=f"projects/{project}/topics/celery-q", messages=[types.PubsubMessage(data=b"\xffpoison")]
        )
    experiment = studio.submit("--queue", "q", studio.script("print(1)"))
    assert studio.ended(experiment)["status"] == "finished"
    rejected = studio.home / "store" / "rejected" / "q"
    (found,) = wait_for("the message in the store", lambda: list(rejected.glob("*.json")))
    facts = json.loads(found.read_bytes())
    assert "not a kombu message" in facts["reason"]
    assert facts["message"] == "\\xffpoison"


def test_what_is_no_experiment_is_set_aside_with_the_reason_and_the_worker_goes_on(studio: Studio) -> None:
    studio.worker("q")
    program = (
        "from studio_celery import app\n"
        "app.send_task('reports.daily', args=(1,), task_id='../../unknown', queue='q')\n"
        "app.send_task('studio.run_experiment', args=('a.py',), task_id='wrong-form', queue='q')\n"
        "message = {'id': 'nothing-of-that-id', 'store': app.services.store.url, 'digest': ''}\n"
        "app.send_task('studio.run_experiment', kwargs=message, task_id='nameless', queue='q')\n"
        "with app.producer_or_acquire() as producer:\n"
        "    producer.publish({'not': 'a task'}, routing_key='q', exchange='')\n"
    )
    done = studio.command("python", "-c", program)
    assert done.returncode == 0, done.stderr
    rejected = studio.home / "store" / "rejected" / "q"
    found = wait_for("all four", lambda: len(files := list(rejected.glob("*.json"))) == 4 and files)
    reasons = {path.stem: json.loads(path.read_bytes())["reason"] for path in found}
    (unknown,) = [name for name in reasons if name.startswith("__.._unknown-")]
    assert reasons.pop(unknown) == "no task reports.daily is registered with this worker"
    assert reasons.pop("wrong-form").startswith("The message names no experiment")
    assert "has no experiment nothing-of-that-id" in reasons.pop("nameless")
    assert list(reasons.values()) == ["it is no task message of Celery"]
    experiment = studio.submit("--queue", "q", studio.script("print(1)"))
    assert studio.ended(experiment)["status"] == "finished"


def test_revoking_is_stopping(studio: Studio) -> None:
    """With and without `terminate`, by this application and by one that knows no store."""
    studio.script("import time; print('on', flush=True); time.sleep(600)", "train.py")
    studio.worker("q")
    program = (
        "import sys\nfrom studio_celery import app, run_experiment\n"
        "ids = [run_experiment.delay('train.py', queue='q').id for _ in range(3)]\n"
        "print(*ids)\n"
    )
    ids = studio.command("python", "-c", program).stdout.split()
    wait_for("a start", lambda: Status.RUNNING in map(studio.status, ids))
    (running,) = [one for one in ids if studio.status(one) is Status.RUNNING]
    first, second = [one for one in ids if one != running]
    ours = f"from studio_celery import app; app.control.revoke([{first!r}, 'other'], terminate=True)"
    theirs = (
        "import os, transports, celery\n"
        "app = celery.Celery(broker=os.environ['STUDIO_BROKER_URL'], result_backend='disabled')\n"
        f"app.control.revoke({second!r}, terminate=True)\napp.control.revoke({running!r})\n"
    )
    for program in (ours, theirs):
        done = studio.command("python", "-c", program)
        assert done.returncode == 0, done.stderr
    assert [studio.ended(one)["reason"] for one in ids] == ["stopped by revoke"] * 3
    assert [studio.show(one)["attempts"] for one in (first, second)] == [[], []]


def test_experiments_stand_in_a_chain_with_ordinary_tasks(studio: Studio) -> None:
    studio.script("print('in a chain')", "train.py")
    worker = studio.start("celery", "-A", "studio_celery", "worker", "-Q", "q", "--loglevel", "info")
    studio.wait_until_ready(worker)
    program = (
        "from celery import chain\nfrom studio_celery import run_experiment\n"
        "one = run_experiment.s('train.py', queue='q')\n"
        "two = run_experiment.s('train.py', queue='q', name='second')\n"
        "print(chain(one, two)().get(timeout=60)['name'])\n"
    )
    done = studio.command("python", "-c", program)
    assert done.stdout == "second\n", done.stderr


def test_values_of_variables_are_not_shown(studio: Studio) -> None:
    script = studio.script("print(1)")
    experiment = studio.submit("--queue", "q", "--env", "API_KEY=s3cret", script)
    for command in ("show", "events"):
        shown = studio.command("studio", command, experiment, "--json").stdout
        assert json.loads(shown)
        assert "s3cret" not in shown
    assert (studio.home / "store").stat().st_mode & 0o077 == 0


def test_several_are_stopped_although_one_cannot_be(studio: Studio) -> None:
    script = studio.script("print(1)")
    first, second = (studio.submit("--queue", "q", script) for _ in range(2))
    assert studio.command("studio", "stop", first).returncode == 0
    done = studio.command("studio", "stop", first, "nothing", second)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2
    assert studio.status(second) is Status.STOPPED


def test_a_followed_log_has_every_attempts_end(studio: Studio) -> None:
    source = "import os, sys\nprint('attempt', os.environ['STUDIO_ATTEMPT'])\nprint('last words')\nsys.exit(1)\n"
    studio.worker("q")
    done = studio.command("studio-runner", "--queue", "q", "--retries", "2", "--wait", studio.script(source))
    assert done.returncode == 1
    output = done.stdout.partition("\n")[2]
    assert output == "".join(f"attempt {n}\nlast words\n" for n in (1, 2, 3))
    assert [line for line in done.stderr.splitlines() if "begins" in line] == [
        f"Attempt {n} is over: exit code 1. Attempt {n + 1} begins." for n in (1, 2)
    ]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_a_studio_whose_terminal_was_closed_leaves_nothing_behind(
    process_studio: Studio, number: signal.Signals
) -> None:
    studio = process_studio
    up = studio.start("studio", "up", STUDIO_BROKER_PORT="0", STUDIO_UI_PORT="0")
    wait_for("the studio", lambda: "ready http://" in studio.output(up))
    children = [int(pid) for pid in Path(f"/proc/{up.pid}/task/{up.pid}/children").read_text().split()]
    assert len(children) == 3
    up.send_signal(number)
    up.wait(60)
    wait_for("the end of its parts", lambda: not any(map(alive, children)))


def test_a_relative_store_is_one_place_from_everywhere(studio: Studio) -> None:
    studio.environ["STUDIO_STORE"] = "records"
    experiment = studio.submit("--queue", "q", studio.script("print(1)"))
    studio.environ["STUDIO_STORE"] = str(studio.work / "records")
    studio.worker("q")
    wait_for("the end", lambda: studio.show(experiment)["status"] == "finished")
    assert studio.log(experiment) == b"1\n"

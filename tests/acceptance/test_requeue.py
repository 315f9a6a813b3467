"""From the store to the queue again, with real processes: `studio requeue`, and a worker that does it by itself."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from fault_proxy import FaultProxy
from kombu import Connection, Queue
from lost_broker import LostBroker, lose_data
from processes import Studio
from studio import wait_for

from studio_celery.experiment import Status
from studio_celery.journal import Kind
from transports.pubsub.link import links


def test_everything_goes_on_after_the_broker_lost_its_data(process_studio: Studio) -> None:
    lost = LostBroker(process_studio, running=3)
    lost.fill(10)
    lost.lose()
    done = lost.requeue()
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == sorted([*lost.running, *lost.waiting])
    lost.end(60)
    again = lost.requeue()
    assert (again.returncode, again.stdout) == (0, "")
    assert again.stderr == "Nothing to queue again: every experiment has ended.\n"


#: Ends at once where its argument is there when it begins.
STAYS_ONCE = """\
import os, sys, time
print(os.getpid(), flush=True)
time.sleep(0 if os.path.exists(sys.argv[1]) else 600)
"""


def test_a_host_that_dies_after_the_broker_did_has_a_successor(process_studio: Studio) -> None:
    """What ran had lost its message: the one that was sent again begins the next attempt."""
    studio = process_studio
    broker = studio.broker()
    other = {"STUDIO_HOME": str(studio.folder / "other"), "STUDIO_STORE": str(studio.home / "store")}
    worker = studio.worker("q", **other)
    one = studio.submit("--queue", "q", studio.script(STAYS_ONCE), str(studio.folder / "second"))
    wait_for("the first attempt", lambda: studio.log(one).strip())
    lose_data(studio, broker)
    assert studio.command("studio", "requeue", one).stdout.strip() == one
    studio.kill(worker)
    os.kill(int(studio.log(one)), signal.SIGKILL)
    (studio.folder / "second").touch()
    studio.worker("q")
    record = studio.ended(one)
    assert [attempt["status"] for attempt in record["attempts"]] == ["lost", "finished"]


def test_what_cannot_be_requeued_is_said_and_can_be_rerun(process_studio: Studio) -> None:
    process_studio.broker()
    waits = process_studio.submit("--queue", "q", process_studio.script("print(1)"))
    ended = process_studio.submit("--queue", "q", "script.py")
    assert process_studio.command("studio", "stop", ended).returncode == 0
    done = process_studio.command("studio", "requeue", ended, "nothing-like-it", waits, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == [waits]
    refused, unknown = done.stderr.splitlines()
    assert refused.startswith(f"Error: {ended} is stopped, so there is nothing to queue")
    assert unknown.startswith("Error: No experiment fits 'nothing-like-it'")
    rerun = process_studio.command("studio", "rerun", ended)
    assert process_studio.status(rerun.stdout.strip()) is Status.WAITING


def test_a_worker_that_may_publish_does_it_by_itself(process_studio: Studio) -> None:
    studio = process_studio
    studio.environ |= {"STUDIO_MESSAGE_RETENTION_SECONDS": "16", "STUDIO_JANITOR_SECONDS": "0.5"}
    broker = studio.broker()
    one = studio.submit("--queue", "gpu", studio.script("print('done')"))
    lose_data(studio, broker)
    url = studio.environ["STUDIO_BROKER_URL"]
    with Connection(url) as connection:
        Queue("gpu")(connection.default_channel).declare()
    address = url.removeprefix("pubsub://").partition("/")[0]
    with FaultProxy(address) as subscriber:
        subscriber.only("subscriber")
        reads = studio.worker("gpu", STUDIO_BROKER_URL=url.replace(address, subscriber.address))
        wait_for("its word", lambda: "by other workers only" in studio.output(reads, "err"))
        assert [entry.kind for entry in _entries(studio, one)] == [Kind.SUBMITTED, Kind.QUEUED]
        writes = studio.worker("gpu")
        record = studio.ended(one)
        for worker in (reads, writes):
            worker.terminate()
            assert worker.wait(60) == 0
    assert (record["status"], len(record["attempts"])) == ("finished", 1)
    again = [entry for entry in _entries(studio, one) if entry.data.get("again")]
    assert [entry.data["reason"][:14] for entry in again] == ["requeued after"]
    links.close()


#: Tasks beside experiments, on the same worker.
EXTRA = """\
from celery import shared_task
@shared_task(name="note")
def note(record, what):
    with open("notes", "a") as file:
        print(what, file=file)
"""

#: Runs one that two ordinary tasks follow, then sends its message twice more.
TWICE_MORE = """\
import time
from celery import chain, signature
from studio_celery import app, run_experiment
from studio_celery.submission.message import Message
first = run_experiment.s("script.py", queue="q").set(link=signature("note", ("linked",), queue="q"))
last = chain(first, signature("note", ("chained",), queue="q")).apply_async()
last.get(timeout=60)
client = app.services.client
while len(app.AsyncResult(last.parent.id).children or ()) < 2:
    time.sleep(0.05)
for _ in range(2):
    client._broker.publish_again(Message.from_json(client.store.message(last.parent.id)), "q")
print(last.parent.id)
"""


def test_messages_too_many_call_nothing_again(process_studio: Studio) -> None:
    studio = process_studio
    studio.broker()
    studio.script("print(1)")
    studio.script(EXTRA, "extra.py")
    imports = "('studio_celery.tasks', 'studio_celery.worker.steps', 'extra')"
    studio.script(f"studio_queue = 'q'\nimports = {imports}\n", "celeryconfig.py")
    worker = studio.worker("q", PYTHONPATH=str(studio.work))
    done = studio.command(Path("python"), studio.script(TWICE_MORE, "program.py"), PYTHONPATH=str(studio.work))
    assert done.returncode == 0, done.stderr
    ended = f"Task studio.run_experiment[{done.stdout.strip()}] succeeded"
    wait_for("three deliveries", lambda: studio.output(worker, "err").count(ended) == 3)
    wait_for("both notes", lambda: len(notes(studio)) >= 2)
    worker.terminate()
    assert worker.wait(60) == 0
    assert sorted(notes(studio)) == ["chained", "linked"]


def notes(studio: Studio) -> list[str]:
    """What the ordinary tasks have noted so far."""
    file = studio.work / "notes"
    return file.read_text().split() if file.exists() else []


def _entries(studio: Studio, experiment_id: str):  # type: ignore[no-untyped-def]
    journal = studio.store.journal(experiment_id)
    journal.refresh()
    return journal.entries

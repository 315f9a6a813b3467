"""A submitter that may only publish and a worker that may only subscribe, as with two of Google's keys."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from fault_proxy import FaultProxy
from kombu import Connection, Queue
from processes import Studio
from studio import wait_for

import transports  # noqa: F401  registers the scheme
from studio_celery.experiment import Status
from transports.pubsub.link import links


@pytest.fixture
def studio(process_studio: Studio) -> Iterator[Studio]:
    """A studio whose queue `gpu` an administrator has created."""
    process_studio.broker()
    with Connection(process_studio.environ["STUDIO_BROKER_URL"]) as connection:
        Queue("gpu")(connection.default_channel).declare()
    yield process_studio
    links.close()


def test_an_experiment_runs_and_can_be_stopped(studio: Studio) -> None:
    url = studio.environ["STUDIO_BROKER_URL"]
    address = url.removeprefix("pubsub://").partition("/")[0]
    with FaultProxy(address) as publisher, FaultProxy(address) as subscriber:
        publisher.only("publisher")
        subscriber.only("subscriber")
        studio.environ["STUDIO_BROKER_URL"] = url.replace(address, publisher.address)
        worker = studio.worker("gpu", STUDIO_BROKER_URL=url.replace(address, subscriber.address))
        first = studio.submit("--queue", "gpu", studio.script("print('done')"))
        assert studio.ended(first)["status"] == "finished"
        second = studio.submit("--queue", "gpu", studio.script("import time; time.sleep(600)"))
        wait_for("the second experiment", lambda: studio.status(second) is Status.RUNNING)
        assert studio.command("studio", "stop", second).returncode == 0
        assert studio.ended(second)["status"] == "stopped"
        said = [line for line in studio.output(worker, "err").splitlines() if "these credentials lack" in line]
        assert any("pubsub.subscriptions.create" in line for line in said)
        assert len(said) <= 2
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0


def test_a_queue_that_nobody_created_is_said(studio: Studio) -> None:
    url = studio.environ["STUDIO_BROKER_URL"]
    address = url.removeprefix("pubsub://").partition("/")[0]
    with FaultProxy(address) as publisher:
        publisher.only("publisher")
        studio.environ["STUDIO_BROKER_URL"] = url.replace(address, publisher.address)
        done = studio.command("studio-runner", "--queue", "new", studio.script("print(1)"))
    assert done.returncode == 1
    assert "celery-new does not exist" in done.stderr
    assert "Traceback" not in done.stderr

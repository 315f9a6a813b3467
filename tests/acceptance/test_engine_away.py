"""A worker that can run nothing takes nothing, and takes again when it can."""

from __future__ import annotations

import os

import pytest
from cut_proxy import CutProxy
from processes import Studio
from studio import wait_for

from studio_celery.experiment import Status


@pytest.mark.docker
def test_a_worker_whose_engine_is_away_leaves_messages_to_others_until_it_is_back(docker_studio: Studio) -> None:
    studio = docker_studio
    studio.broker()
    with CutProxy(os.environ["DOCKER_HOST"]) as cable:
        worker = studio.start(
            *("celery", "-A", "studio_celery", "worker", "-Q", "q", "--loglevel", "info"),
            DOCKER_HOST=f"tcp://{cable.address}",
        )
        studio.wait_until_ready(worker)
        cable.cut()
        script = studio.script("print('ran')")
        first = studio.submit("--queue", "q", script)
        wait_for("its word", lambda: "Canceling queue q" in studio.output(worker, "err"))
        wait_for("its note", lambda: first in studio.store.workers()[0]["cannot_take"])
        (facts,) = studio.store.workers()
        assert "Docker engine does not answer" in facts["takes_nothing"]
        assert "Docker engine does not answer" in facts["cannot_take"][first]
        second = studio.submit("--queue", "q", script)
        wait_for("its notice", lambda: studio.show(first)["reason"].startswith("The Docker engine does not answer"))
        assert second not in studio.store.workers()[0]["cannot_take"]
        assert studio.status(second) is Status.WAITING
        cable.restore()
        assert {studio.ended(experiment)["status"] for experiment in (first, second)} == {"finished"}
        assert worker.poll() is None

"""Why an experiment ended, in words: the same in the record, the commands, the page, the result and the exception.

Each journal here is written by what writes it in a worker: verdicts, failures of a runtime, decisions of onlookers.
"""

from __future__ import annotations

import html
import json
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backend_bench import application
from celery import states
from processes import BIN
from studio import environment, quick_settings, submit

from studio_celery.cli.tables import details
from studio_celery.client import Client
from studio_celery.errors import (
    EngineUnavailable,
    EnvironmentFailed,
    ExperimentFailed,
    ImageNotFound,
    IndexUnavailable,
    RuntimeFailure,
)
from studio_celery.experiment import Resources
from studio_celery.journal import End, Kind, Observation, Rules, decide
from studio_celery.runtimes.contract import Exit
from studio_celery.store import Journal, Store
from studio_celery.supervisor.verdict import judge
from studio_celery.web import create_app
from studio_celery.world import World

Story = Callable[[Journal], None]


def claim(journal: Journal, host: str = "h") -> None:
    number = len(journal.state.attempts) + 1
    assert journal.decide(Kind.CLAIMED, f"w{number}", attempt=number, host=host)


def write(journal: Journal, kind: Kind, **data: Any) -> None:
    assert journal.decide(kind, "w", epoch=journal.state.owner_epoch, **data)


def ran(exit: Exit, **known: Any) -> Story:
    """It ran, and ended so, three times if it may be tried again."""

    def story(journal: Journal) -> None:
        for _ in range(3):
            claim(journal)
            write(journal, Kind.STARTED)
            verdict = judge(exit, journal.state, **{"ran_too_long": False, **known})
            write(journal, verdict.kind, **verdict.data)
            if verdict.ends:
                return

    return story


def failed_to_start(failure: RuntimeFailure) -> Story:
    """It could not be started, wherever that was tried."""

    def story(journal: Journal) -> None:
        for n in range(10):
            claim(journal, f"h{n}")
            if failure.release_class is None:
                write(journal, Kind.FAILED, reason=str(failure))
                return
            write(journal, Kind.RELEASED, reason=str(failure), **{"class": failure.release_class})
        give_up(journal)

    return story


def defect(release_class: str, reason: str) -> Story:
    def story(journal: Journal) -> None:
        for n in range(10):
            claim(journal, f"h{n}")
            write(journal, Kind.RELEASED, reason=reason, **{"class": release_class})
        give_up(journal)

    return story


def give_up(journal: Journal) -> None:
    """What the next worker with the message does."""
    end = decide(journal.state, Observation(), Rules())
    assert isinstance(end, End)
    assert journal.decide(end.kind, "w", reason=end.reason)


def stopped(journal: Journal) -> None:
    assert journal.decide(Kind.STOP_REQUESTED, "alice")


def expired(journal: Journal) -> None:
    """Its lifetime of no time at all has passed."""


ENGINE = EngineUnavailable("The Docker engine does not answer (Connection refused): start it.")
INDEX = IndexUnavailable("The package index does not answer: check the worker's network.")

#: (what happened, fields of the experiment, the reason)
REASONS: dict[str, tuple[Story, dict[str, Any], str]] = {
    "exit code": (ran(Exit(exit_code=3)), {}, "exit code 3"),
    "signal": (ran(Exit(signal=11)), {}, "killed by signal 11"),
    "out of memory": (
        ran(Exit(signal=9, out_of_memory=True)),
        {"resources": Resources(memory_bytes=8 * 2**30)},
        "out of memory (limit 8 GiB)",
    ),
    "card lost": (ran(Exit(exit_code=1), lost_cards=("GPU-8f6d",)), {}, "card lost: GPU-8f6d, 3 attempts"),
    "image": (
        failed_to_start(ImageNotFound("image not found: no/such <image>.")),
        {},
        "image not found: no/such <image>.",
    ),
    "environment": (
        failed_to_start(EnvironmentFailed("The requirements cannot be installed: no version of 'x'.")),
        {},
        "The requirements cannot be installed: no version of 'x'.",
    ),
    "package index": (failed_to_start(INDEX), {}, f"{INDEX} (given up after 10 releases)"),
    "disk": (
        defect("disk", "the worker's disk: No space left on device"),
        {},
        "the worker's disk: No space left on device (given up after 10 releases)",
    ),
    "worker lost": (
        ran(Exit(lost="no heartbeat for 2m")),
        {},
        "worker lost: no heartbeat for 2m, 3 attempts",
    ),
    "ran too long": (
        ran(Exit(signal=15), ran_too_long=True),
        {"max_duration_seconds": 5 * 3600.0},
        "ran past --max-duration 5h",
    ),
    "engine": (failed_to_start(ENGINE), {}, f"{ENGINE} (given up after 10 releases)"),
    "internal error": (
        defect("internal", "internal error: ValueError: no"),
        {},
        "internal error: ValueError: no (given up after 10 releases)",
    ),
    "stopped": (stopped, {}, "stopped by alice"),
    "expired": (expired, {"lifetime_seconds": 1e-6}, "waited longer than --lifetime 0.0s"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reasons")


@pytest.fixture(scope="module")
def client(home: Path) -> Client:
    store = Store(str(home / "store"))
    return Client(None, quick_settings(home), World("memory://", store.url, "a test"), store)


@pytest.fixture(scope="module")
def ids(client: Client, home: Path) -> dict[str, str]:
    """An experiment for each reason, by its name."""
    found = {}
    for name, (story, fields, _) in REASONS.items():
        found[name] = submit(client.store, home, "print(1)", name=name.replace(" ", "-"), **fields)
        journal = client.store.journal(found[name])
        journal.refresh()
        story(journal)
    return found


@pytest.fixture(scope="module")
def listed(ids: dict[str, str], home: Path) -> tuple[dict[str, Any], str]:
    """What `studio ls` says, as JSON by id and as text."""
    variables = {"PATH": "/usr/bin:/bin", **environment(home)}
    outputs = [
        subprocess.run(argv, env=variables, cwd=home, capture_output=True, text=True, check=True, timeout=120).stdout
        for argv in ([str(BIN / "studio"), "ls", "--json"], [str(BIN / "studio"), "ls"])
    ]
    return {record["id"]: record for record in json.loads(outputs[0])}, outputs[1]


@pytest.mark.parametrize("name", list(REASONS))
def test_the_reason_is_the_same_wherever_one_looks(
    name: str, ids: dict[str, str], client: Client, home: Path, listed: tuple[dict[str, Any], str]
) -> None:
    one, reason = ids[name], REASONS[name][2]
    record = client.show(one)
    assert record["reason"] == reason
    assert record["status"] == {"stopped": "stopped", "expired": "expired"}.get(name, "failed")
    by_id, text = listed
    assert by_id[one]["reason"] == reason
    assert any(line.startswith(one) and line.rstrip().endswith(reason) for line in text.splitlines())
    assert f": {reason}\n" in details(record)
    page = create_app(client, quick_settings(home)).test_client().get(f"/experiments/{one}").text
    assert reason in html.unescape(page)
    result = application(client.store.url).AsyncResult(one)
    assert result.state == (states.REVOKED if name == "stopped" else states.FAILURE)
    with pytest.raises(ExperimentFailed) as caught:
        result.get(timeout=120)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert (error.reason, error.record["reason"], error.exit_code) == (reason, reason, record["exit_code"])
        assert str(error) == f"experiment {one}: {reason}"

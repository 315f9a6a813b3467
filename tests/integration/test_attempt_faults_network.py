"""The network between a worker and its broker, and between it and its store, fails in each phase of an attempt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attempt_faults import Scene, assert_finished
from attempt_faults_worker import PHASES
from cut_proxy import CutProxy
from docker_engine import missing
from faulty_store import Faults
from s3_server import find_moto, new_bucket, s3_server, variables

#: Longer than an owner's silence is borne, and than a message is held for a worker that is cut off.
LONG_SECONDS = 5.0


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    """A real S3 server."""
    moto = find_moto()
    if moto is None:
        missing("moto is not installed: pip install 'moto[server]'")
    assert moto is not None
    with s3_server(moto) as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket; this process and those that it starts may use it."""
    for name, value in variables(s3_endpoint).items():
        monkeypatch.setenv(name, value)
    return f"s3://{new_bucket(s3_endpoint)}"


def test_a_worker_cut_off_from_its_broker_in_each_phase(tmp_path: Path, local_broker_address: str) -> None:
    """It needs none to go on; what is delivered again meanwhile does no harm."""
    with (
        CutProxy(local_broker_address) as cable,
        Scene(tmp_path / "one", local_broker_address, runtime="process") as scene,
    ):
        scene.worker(STUDIO_BROKER_URL=scene.broker_at(cable.address))
        for harm in (cable.cut, cable.freeze, cable.forget):
            ids = scene.held()
            harm()
            scene.release(ids.values())
            assert_finished(scene.ends(ids.values()).values(), "ended")
            cable.restore()
        later = scene.submit()
        assert_finished(scene.ends([later]).values())
        scene.leaves_nothing()


def test_a_worker_cut_off_from_its_store_in_each_phase(
    bucket: str, s3_endpoint: str, tmp_path: Path, local_broker_address: str
) -> None:
    """The script runs on; log, artifacts and end are stored when the store answers again, and not before."""
    address = s3_endpoint.removeprefix("http://")
    with (
        CutProxy(address) as cable,
        Scene(tmp_path / "one", local_broker_address, runtime="process", store=bucket) as scene,
    ):
        scene.worker(AWS_ENDPOINT_URL=f"http://{cable.address}")
        ids = scene.held()
        cable.cut()
        scene.release(ids.values())
        time.sleep(LONG_SECONDS)  # not a wait: the length of the outage
        assert not [phase for phase in PHASES[:6] if scene.status(ids[phase]).terminal]
        cable.restore()
        outcomes = scene.ends(ids.values())
        assert_finished(outcomes.values())
        assert_finished((outcomes[ids[phase]] for phase in PHASES[2:]), "ended")
        scene.leaves_nothing()


def test_a_worker_cut_off_from_everything_is_superseded_and_writes_nothing_more(
    tmp_path: Path, local_broker_address: str
) -> None:
    """In each phase: another host begins anew; the first one, back again, stops what it has."""
    begun, store, faults = PHASES[:6], str(tmp_path / "store"), Faults(tmp_path / "faults.json")
    with (
        CutProxy(local_broker_address) as cable,
        Scene(tmp_path / "one", local_broker_address, runtime="process", store=store) as first,
        Scene(tmp_path / "two", local_broker_address, runtime="process", store=store, project=first.project) as second,
    ):
        first.worker(STUDIO_BROKER_URL=first.broker_at(cable.address), **faults.variables())
        ids = first.held(begun)
        faults.cut()
        cable.cut()
        second.worker()
        outcomes = second.ends(ids.values())
        assert_finished((outcomes[ids[phase]] for phase in begun), "lost", "ended")
        first.release(ids.values())
        faults.heal()
        cable.restore()
        first.leaves_nothing()
        second.leaves_nothing()
        for one in ids.values():
            assert first.outcome(one).entries == outcomes[one].entries

"""Servers that several test modules share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from pubsub_servers import emulator, find_emulator, local_broker

if TYPE_CHECKING:
    from pubsub_client import PubSub


# No bounds of time: how long an example takes says how busy the machine is. CI judges a change, so it tries the same
# examples every time; new ones are looked for where somebody develops.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("here"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "here")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", action="store_true", help="also collect what takes very long: see scripts/torture.py")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what takes long, unless it is asked for."""
    return True if collection_path.name == "torture" and not config.getoption("--torture") else None


@pytest.fixture(scope="session")
def emulator_address() -> Iterator[str]:
    """Give the ``host:port`` of Google's Pub/Sub emulator; skip where it is missing, fail where that is in CI."""
    if find_emulator() is None:
        reason = "Google's Pub/Sub emulator is not installed (gcloud components install pubsub-emulator)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with emulator() as address:
        yield address


@pytest.fixture(scope="session")
def local_broker_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the ``host:port`` of our broker, a process of its own on a directory of its own."""
    with local_broker(tmp_path_factory.mktemp("broker")) as address:
        yield address


@pytest.fixture
def local_pubsub(local_broker_address: str) -> Iterator[PubSub]:
    """Give a project of its own on our broker."""
    with _connected(local_broker_address) as pubsub:
        yield pubsub


@pytest.fixture
def emulator_pubsub(emulator_address: str) -> Iterator[PubSub]:
    """Give a project of its own on Google's emulator."""
    with _connected(emulator_address) as pubsub:
        yield pubsub


@pytest.fixture(
    params=[
        pytest.param("local_pubsub", id="local"),
        pytest.param("emulator_pubsub", id="emulator", marks=pytest.mark.emulator),
    ]
)
def pubsub(request: pytest.FixtureRequest) -> PubSub:
    """Give a project of its own on each server: the test is a contract that both keep."""
    server: PubSub = request.getfixturevalue(request.param)
    return server


def _connected(address: str) -> AbstractContextManager[PubSub]:
    from pubsub_client import PubSub  # Google's library, which most tests do without

    return PubSub(address)

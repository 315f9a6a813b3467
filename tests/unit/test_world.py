"""Broker and store, resolved together."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from studio_celery.errors import SettingsError
from studio_celery.settings import Settings
from studio_celery.world import World, only_up, resolve


def settings(home: Path, **changes: Any) -> Settings:
    return dataclasses.replace(Settings(home=home), **changes)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key.json"
    path.write_text(json.dumps({"type": "service_account", "project_id": "my-project"}))
    return path


def test_nothing_set_means_this_machine(tmp_path: Path) -> None:
    world = resolve(settings(tmp_path), {})
    assert (world.broker_url, world.store_url) == ("pubsub://127.0.0.1:8085/studio", str(tmp_path / "store"))


def test_credentials_and_a_store_url_mean_google(tmp_path: Path, key: Path) -> None:
    world = resolve(settings(tmp_path, store="gs://bucket/x"), {"GOOGLE_APPLICATION_CREDENTIALS": str(key)})
    assert (world.broker_url, world.store_url) == ("pubsub://my-project", "gs://bucket/x")


def test_credentials_without_a_store_url_mean_this_machine_and_that_is_said(tmp_path: Path, key: Path) -> None:
    world = resolve(settings(tmp_path), {"GOOGLE_APPLICATION_CREDENTIALS": str(key)})
    assert world.broker_url == "pubsub://127.0.0.1:8085/studio"
    assert world.remark is not None
    assert "STUDIO_STORE" in world.remark


def test_a_key_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing-here"):
        resolve(
            settings(tmp_path, store="gs://b/x"), {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "nothing-here")}
        )


def test_a_running_studio_up_is_found_and_only_while_it_runs(tmp_path: Path) -> None:
    up = World("pubsub://127.0.0.1:9999/studio", str(tmp_path / "elsewhere"), "test")
    with only_up(tmp_path) as announce:
        announce(up)
        found = resolve(settings(tmp_path), {})
        assert (found.broker_url, found.store_url) == (up.broker_url, up.store_url)
        with pytest.raises(SettingsError, match="running already"), only_up(tmp_path):
            pass
    assert resolve(settings(tmp_path), {}).broker_url == "pubsub://127.0.0.1:8085/studio"


def test_what_is_set_beats_a_running_studio_up(tmp_path: Path) -> None:
    with only_up(tmp_path) as announce:
        announce(World("pubsub://127.0.0.1:9999/studio", "x", "test"))
        assert resolve(settings(tmp_path, broker_url="memory://"), {}).broker_url == "memory://"


@pytest.mark.parametrize("url", ["pubsub://my-project", "redis://elsewhere:6379/0", "amqp://u:p@rabbit/"])
def test_a_remote_broker_with_a_store_of_this_machine_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="--store-is-shared"):
        resolve(settings(tmp_path, broker_url=url), {})
    assert resolve(settings(tmp_path, broker_url=url, store_is_shared=True), {}).broker_url == url
    assert resolve(settings(tmp_path, broker_url=url, store="s3://b/x"), {}).broker_url == url


@pytest.mark.parametrize(
    ("url", "environ"),
    [
        ("pubsub://127.0.0.1:8085/studio", {}),
        ("redis://localhost:6379/0", {}),
        ("memory://", {}),
        ("pubsub://any", {"PUBSUB_EMULATOR_HOST": "127.0.0.1:8086"}),
    ],
)
def test_a_broker_of_this_machine_needs_no_shared_store(tmp_path: Path, url: str, environ: dict[str, str]) -> None:
    assert resolve(settings(tmp_path, broker_url=url), environ).store_url == str(tmp_path / "store")

"""Broker and store, resolved together, so that they never name different worlds.

What is set explicitly; else a running `studio up` of this STUDIO_HOME; else, with Google credentials in the environment
and a store URL, Google; else this machine.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from studio_celery.errors import SettingsError
from studio_celery.settings import Settings

#: The project that the local broker's topics are in; any name would do.
LOCAL_PROJECT = "studio"

#: Names that mean this machine.
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

#: Broker schemes that never leave this machine.
_LOCAL_SCHEMES = frozenset({"memory", "filesystem", "sqla", "sqlalchemy"})


@dataclass(frozen=True)
class World:
    """Where messages go and where experiments are recorded."""

    broker_url: str
    store_url: str
    #: How it was found, for `studio config` and error messages.
    source: str
    #: Something that a person should know about the choice.
    remark: str | None = None


def resolve(settings: Settings, environ: Mapping[str, str] | None = None) -> World:
    """The world that the settings and this machine's state amount to; `SettingsError` if there is none."""
    environment = os.environ if environ is None else environ
    up = None if settings.broker_url or settings.store else running_up(settings.home)
    if up is not None:
        return up
    credentials = environment.get("GOOGLE_APPLICATION_CREDENTIALS")
    store_url = settings.store or str(settings.home / "store")
    if settings.broker_url:
        return _checked(World(settings.broker_url, store_url, "set explicitly"), settings, environment)
    if credentials and "://" in store_url:
        return World(f"pubsub://{_key_project(Path(credentials))}", store_url, "Google credentials and a store URL")
    remark = None
    if credentials:
        remark = (
            "GOOGLE_APPLICATION_CREDENTIALS is set but STUDIO_STORE is not gs://… or s3://…: "
            "this machine's broker is used."
        )
    return World(local_broker_url(settings), store_url, "this machine", remark)


def local_broker_url(settings: Settings) -> str:
    """The local broker's URL at its configured address."""
    return f"pubsub://{settings.broker_host}:{settings.broker_port}/{LOCAL_PROJECT}"


def is_local_broker(url: str, environ: Mapping[str, str]) -> bool:
    """Whether only this machine can reach that broker."""
    parts = urlsplit(url)
    if parts.scheme in _LOCAL_SCHEMES:
        return True
    host = parts.hostname
    if parts.scheme.startswith("pubsub") and not parts.path.strip("/") and parts.port is None:
        host = environ.get("PUBSUB_EMULATOR_HOST", "").rsplit(":", 1)[0]
    return host in _LOOPBACK


def _checked(world: World, settings: Settings, environ: Mapping[str, str]) -> World:
    remote = not is_local_broker(world.broker_url, environ)
    if remote and "://" not in world.store_url and not settings.store_is_shared:
        raise SettingsError(
            f"The broker is remote, but the store {world.store_url} is seen by this machine only: set STUDIO_STORE to "
            "gs://… or s3://…, or say --store-is-shared if that directory is mounted on every machine."
        )
    return world


def _key_project(path: Path) -> str:
    try:
        project = json.loads(path.read_text())["project_id"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise SettingsError(
            f"GOOGLE_APPLICATION_CREDENTIALS names {path}, which is not a service-account key ({type(exc).__name__}): "
            "download the key again, or set STUDIO_BROKER_URL=pubsub://PROJECT."
        ) from exc
    return str(project)


@contextmanager
def only_up(home: Path) -> Iterator[Callable[[World], None]]:
    """Be the one `studio up` of this STUDIO_HOME; the function tells other commands about it, until the end."""
    path = _up_path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"`studio up` is running already for {home}: stop it, or use another STUDIO_HOME."
            ) from None
        file.truncate(0)

        def announce(world: World) -> None:
            file.write(json.dumps({"broker_url": world.broker_url, "store_url": world.store_url}))
            file.flush()

        yield announce
        file.truncate(0)


def running_up(home: Path) -> World | None:
    """The world of a running `studio up`, if there is one."""
    try:
        descriptor = os.open(_up_path(home), os.O_RDONLY)
    except OSError:
        return None
    with os.fdopen(descriptor) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            facts = json.loads(file.read() or "{}")
            return World(facts["broker_url"], facts["store_url"], "a running `studio up`") if facts else None
    return None


def _up_path(home: Path) -> Path:
    return home / "run" / "up.json"

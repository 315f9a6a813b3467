"""Every setting once: type, default, environment variable, help.

Precedence: a flag, then `STUDIO_<NAME>` in the environment, then `studio_<name>` in `celeryconfig.py` of the working
directory (used only if it sets a `studio_…` name, so that another project's file is left alone) or in the module that
`STUDIO_CONFIG` names, then the default. Times are seconds, sizes bytes; people may write "30s" and "5g".
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import runpy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio_celery.errors import SettingsError, UsageError
from studio_celery.units import parse_bytes, parse_duration

#: Least room for output that waits, bytes: what is stored is freed by up to 16 MiB at a time.
SPOOL_LEAST = 64 * 2**20


def _text(value: Any) -> str:
    return str(value)


def _size(value: Any) -> int:
    return value if isinstance(value, int) else parse_bytes(str(value))


def _spool(value: Any) -> int:
    size = _size(value)
    if size < SPOOL_LEAST:
        raise ValueError(f"write {SPOOL_LEAST // 2**20}m or more")
    return size


def _seconds(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else parse_duration(str(value))


def _whole(least: int, most: int = 2**31) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        number = int(value)
        if not least <= number <= most:
            raise ValueError(f"write a whole number from {least} to {most}")
        return number

    return parse


def _store(value: Any) -> str:
    return str(value) if "://" in str(value) else str(_path(value))


def _boolean(value: Any) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if str(value).lower() not in words:
        raise ValueError("write yes or no")
    return words[str(value).lower()]


def _path(value: Any) -> Path:
    try:
        return Path(str(value)).expanduser().absolute()
    except RuntimeError as exc:
        raise SettingsError("There is no home directory for this user: set STUDIO_HOME.") from exc


def _one_of(*choices: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"write one of {', '.join(choices)}")
        return str(value)

    return parse


def _option(parse: Callable[[Any], Any], default: Any, help: str) -> Any:
    return field(default=default, metadata={"parse": parse, "help": help})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, resolved; `load` makes them."""

    home: Path = _option(_path, Path("~/.studio"), "directory for the local store, caches and what runs here")
    broker_url: str | None = _option(_text, None, "any Celery broker URL; pubsub://PROJECT for Google Pub/Sub")
    store: str | None = _option(_store, None, "where experiments are recorded: a directory, gs://… or s3://…")
    store_is_shared: bool = _option(_boolean, False, "the store directory is mounted on every machine")
    runtime: str = _option(_one_of("docker", "process"), "docker", "how this worker runs experiments")
    image: str | None = _option(_text, None, "image for experiments that name none; default python:<minor>-slim")
    uid: str | None = _option(_text, None, "user id (or uid:gid) that scripts run as in containers")
    gpus: str | None = _option(_text, None, "ids of the cards this worker may use, 'none', or nothing for all")
    concurrency: int | None = _option(_whole(1), None, "experiments at a time; default: number of cards, else 1")
    owner: str | None = _option(_text, None, "who submits; default: the login name")
    project: str | None = _option(_text, None, "project that experiments belong to")
    queue: str = _option(_text, "default", "queue that `studio up` works on and that run_experiment uses")
    workspace_limit: int = _option(_size, 500 * 2**20, "size above which a workspace is refused")
    broker_host: str = _option(_text, "127.0.0.1", "address of the local broker")
    broker_port: int = _option(_whole(0, 65535), 8085, "port of the local broker")
    broker_tls_cert: Path | None = _option(_path, None, "certificate of the local broker, a PEM file; needs its key")
    broker_tls_key: Path | None = _option(_path, None, "key of that certificate, a PEM file without a password")
    broker_require_tokens: bool = _option(_boolean, False, "the local broker asks for tokens on loopback, too")
    broker_grace_seconds: float = _option(_seconds, 10.0, "least time that leases outlive a restart of the broker")
    broker_silence_seconds: float = _option(_seconds, 30.0, "time after which a silent client of the broker has gone")
    broker_metrics_port: int | None = _option(_whole(0, 65535), None, "port of the local broker's page for Prometheus")
    ui_host: str = _option(_text, "127.0.0.1", "address of the web page")
    ui_port: int = _option(_whole(0, 65535), 8640, "port of the web page")
    heartbeat_seconds: float = _option(_seconds, 10.0, "time between two heartbeats of an attempt")
    patience_floor_seconds: float = _option(_seconds, 60.0, "an attempt this long without a heartbeat is dead")
    patience_ceiling_seconds: float = _option(_seconds, 600.0, "the same for an attempt that has run for long")
    patience_fraction: float = _option(float, 0.1, "part of the time already run that a dead worker is waited for")
    lease_floor_seconds: float = _option(_seconds, 45.0, "shortest lease of a message")
    defer_seconds: float = _option(_seconds, 30.0, "first delay of an experiment that cannot run here now")
    defer_ceiling_seconds: float = _option(_seconds, 300.0, "longest such delay")
    retry_seconds: float = _option(
        _seconds, 10.0, "pause before the next attempt of a script that failed, doubled each time"
    )
    stop_grace_seconds: float = _option(_seconds, 30.0, "time between SIGTERM and SIGKILL")
    leave_seconds: float = _option(_seconds, 4.0, "a worker that leaves its experiments waits no longer for anything")
    log_seconds: float = _option(_seconds, 0.5, "time between two looks at a script's output")
    log_spool_bytes: int = _option(_spool, 2**30, "output that may wait on the worker's disk until the store takes it")
    log_hold_seconds: float = _option(_seconds, 10.0, "time that a script waits for room there before it loses output")
    poll_seconds: float = _option(_seconds, 0.2, "time between two looks at whether a script has ended")
    release_limit: int = _option(_whole(1), 10, "releases before the script started, after which an experiment fails")
    release_window_seconds: float = _option(_seconds, 3600.0, "time over which few workers must have released it")
    submission_limit_seconds: float = _option(_seconds, 3600.0, "a submission without a message is failed after this")
    engine_settle_seconds: float = _option(
        _seconds, 20.0, "time after a kill by nobody knows whom that shows whether the engine stops"
    )
    pull_limit_seconds: float = _option(_seconds, 1200.0, "time that an image may take to be pulled")
    connect_seconds: float = _option(_seconds, 10.0, "time that a broker may take to answer")
    disk_reserve_bytes: int = _option(_size, 2**30, "a worker with less room than this takes nothing more")
    cache_bytes: int = _option(_size, 50 * 2**30, "environments and archives kept on a worker; the oldest go first")
    janitor_seconds: float = _option(_seconds, 300.0, "time between two rounds of a worker's janitor")
    message_retention_seconds: float | None = _option(
        _seconds, None, "time that queues keep a message, if it is less than the broker says or the broker cannot say"
    )
    forget_seconds: float = _option(_seconds, 86400.0, "a worker that was silent for so long is forgotten")


def option_help(name: str) -> str:
    """The sentence that explains a setting."""
    return next(str(f.metadata["help"]) for f in dataclasses.fields(Settings) if f.name == name)


def make_home(home: Path) -> None:
    """Make STUDIO_HOME if it is missing, for its owner's eyes only: it holds workspaces, logs, and what they reveal."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)


def load(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Resolve all settings; `flags` are those that were given (None values count as not given)."""
    environment = os.environ if environ is None else environ
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    module = config_module(environment)
    values = {}
    for option in dataclasses.fields(Settings):
        found = _find(option.name, given, environment, module)
        values[option.name] = _parse(option, found) if found else _default(option)
    return Settings(**values)


def _find(
    name: str, flags: Mapping[str, Any], environ: Mapping[str, str], module: Mapping[str, Any]
) -> tuple[str, Any] | None:
    variable = f"STUDIO_{name.upper()}"
    if name in flags:
        return f"--{name.replace('_', '-')}", flags[name]
    if environ.get(variable):
        return variable, environ[variable]
    if name == "broker_url" and module.get("broker_url") and not module.get("studio_broker_url"):
        return f"broker_url in {module.get('__file__', 'STUDIO_CONFIG')}", module["broker_url"]
    if module.get(f"studio_{name}") is not None:
        return f"studio_{name} in {module.get('__file__', 'STUDIO_CONFIG')}", module[f"studio_{name}"]
    return None


def _parse(option: dataclasses.Field[Any], found: tuple[str, Any]) -> Any:
    where, value = found
    try:
        return option.metadata["parse"](value)
    except (ValueError, UsageError) as exc:
        raise SettingsError(f"{where} is {value!r}, which cannot be used: {str(exc).rstrip('.')}.") from exc


def _default(option: dataclasses.Field[Any]) -> Any:
    return _path(option.default) if isinstance(option.default, Path) else option.default


def config_module(environ: Mapping[str, str]) -> Mapping[str, Any]:
    """Names of the configuration module that applies, empty if none does."""
    named = environ.get("STUDIO_CONFIG")
    if named:
        return _import(named)
    path = Path("celeryconfig.py")
    if not path.is_file() or "studio_" not in path.read_text(encoding="utf-8", errors="replace"):
        return {}
    names = _run(path.absolute())
    return names if any(name.startswith("studio_") for name in names) else {}


def _import(named: str) -> Mapping[str, Any]:
    if named.endswith(".py"):
        return _run(Path(named).absolute())
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return vars(importlib.import_module(named))
    except ImportError as exc:
        raise SettingsError(f"STUDIO_CONFIG names the module {named!r}, which cannot be imported: {exc}.") from exc


def _run(path: Path) -> Mapping[str, Any]:
    try:
        return {"__file__": str(path), **runpy.run_path(str(path))}
    except FileNotFoundError as exc:
        raise SettingsError(f"STUDIO_CONFIG names {path}, which does not exist.") from exc
    except Exception as exc:
        raise SettingsError(f"{path} cannot be read as configuration: {type(exc).__name__}: {exc}.") from exc

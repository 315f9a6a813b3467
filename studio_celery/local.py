"""The parts of a studio that run on this machine: broker, web page, and with `studio up` a worker beside them."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import click

from studio_celery import settings as settings_module
from studio_celery.errors import BrokerError, StudioError
from studio_celery.settings import Settings
from studio_celery.world import LOCAL_PROJECT, World, only_up

#: prctl(2): the signal that a child gets when its parent ends.
PR_SET_PDEATHSIG = 1

#: Time that broker and web page may take to be ready, seconds.
READY_SECONDS = 30.0


def run_broker(data: Path | None, flags: Mapping[str, Any]) -> None:
    """Serve the local broker until SIGTERM or Ctrl-C; `ready HOST:PORT` on stdout when it answers."""
    from transports.local import Options, serve
    from transports.local.errors import BrokerError as LocalBrokerError

    settings = settings_module.load(flags)
    settings_module.make_home(settings.home)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        options = Options(
            tls_cert=settings.broker_tls_cert,
            tls_key=settings.broker_tls_key,
            require_tokens=settings.broker_require_tokens,
            grace_seconds=settings.broker_grace_seconds,
            silence_seconds=settings.broker_silence_seconds,
            metrics_port=settings.broker_metrics_port,
        )
        serve(
            data or broker_data(settings),
            settings.broker_host,
            settings.broker_port,
            lambda address: click.echo(f"ready {address}"),
            options,
        )
    except LocalBrokerError as exc:
        raise BrokerError(str(exc)) from exc


def broker_data(settings: Settings) -> Path:
    """Where the local broker of this STUDIO_HOME keeps what it has."""
    return settings.home / "broker"


def run_ui(host: str | None, port: int | None) -> None:
    """Serve the web page until SIGTERM or Ctrl-C; its address on stdout when it answers."""
    from studio_celery import app
    from studio_celery.web import serve

    settings = settings_module.load({"ui_host": host, "ui_port": port})
    serve(app.services.client, settings, lambda url: click.echo(f"ready {url}"))


def run_up(queues: tuple[str, ...]) -> int:
    """Broker, worker and page as children of this process; the exit code."""
    settings = settings_module.load()
    settings_module.make_home(settings.home)
    with only_up(settings.home) as announce:
        return _Up(settings, queues or (settings.queue,), announce).run()


class _Stopped(Exception):
    """Somebody asked for the end before everything had started."""


def _end_with_parent() -> None:
    """In the child: be told to stop when the parent dies, however it dies, so that nothing is left behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class _Up:
    """The children, in the order in which they are started; stopped in the opposite one."""

    def __init__(self, settings: Settings, queues: tuple[str, ...], announce: Callable[[World], None]) -> None:
        self._settings = settings
        self._announce = announce
        self._queues = queues
        self._children: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._stopping = threading.Event()

    def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)
        try:
            address = self._wait_ready(self._start("broker", ["studio", "broker"]))
            world = World(f"pubsub://{address}/{LOCAL_PROJECT}", self._store_url, "a running `studio up`")
            os.environ.update(STUDIO_BROKER_URL=world.broker_url, STUDIO_STORE=world.store_url)
            self._announce(world)
            page = self._wait_ready(self._start("ui", ["studio", "ui"]))
            self._start("worker", ["studio-start-remote-worker", "--detach-on-stop", *self._queues], ready=False)
            click.echo(f"ready {page}")
            click.echo(
                f"Submit with: studio-runner --queue {self._queues[0]} script.py   Page: {page}   Ctrl-C stops.",
                err=True,
            )
            return self._watch()
        except _Stopped:
            return 0
        finally:
            self._end()

    @property
    def _store_url(self) -> str:
        return self._settings.store or str(self._settings.home / "store")

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping.set()

    def _start(self, name: str, argv: list[str], ready: bool = True) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name(argv[0])), *argv[1:]]
        # A session of its own: Ctrl-C in the terminal reaches this process only, which stops them in order.
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE if ready else None,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        self._children.append((name, child))
        return child

    def _wait_ready(self, child: subprocess.Popen[bytes]) -> str:
        assert child.stdout is not None
        os.set_blocking(child.stdout.fileno(), False)
        line, deadline = b"", time.monotonic() + READY_SECONDS
        while not line.endswith(b"\n") and time.monotonic() < deadline and not self._stopping.wait(0.05):
            line += child.stdout.read() or b""
            if child.poll() is not None:
                break
        if self._stopping.is_set():
            raise _Stopped
        if not line.startswith(b"ready "):
            raise StudioError("A part of the studio did not start: its message stands above.")
        return line.decode().split()[1]

    def _watch(self) -> int:
        while not self._stopping.wait(0.2):
            for name, child in self._children:
                if child.poll() is not None:
                    click.echo(
                        f"Error: the {name} ended with exit code {child.returncode}; stopping the rest.", err=True
                    )
                    return 1
        return 0

    def _end(self) -> None:
        for _, child in reversed(self._children):
            if child.poll() is None:
                child.terminate()
            self._wait(child)

    def _wait(self, child: subprocess.Popen[Any]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if child.poll() is None:
            child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()

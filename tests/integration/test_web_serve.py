"""The page as a process: where it listens, and how it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import ready_url, running_page, start_page
from ports import kept_port

#: Seconds that a process may take to start or to end on a busy machine.
LIMIT = 60.0


@contextmanager
def started(home: Path, *where: Any, **how: Any) -> Iterator[subprocess.Popen[str]]:
    """The page as a process; killed if it still runs at the end."""
    with start_page(home, *where, **how) as server:
        try:
            yield server
        finally:
            server.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_with_exit_code_0(tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path) as server:
        url = ready_url(server)
        with urllib.request.urlopen(url, timeout=LIMIT) as answer:
            assert b"No experiments yet" in answer.read()
        begun = time.monotonic()
        server.send_signal(number)
        _, errors = server.communicate(timeout=LIMIT)
        assert time.monotonic() - begun < 20
    assert (server.returncode, errors) == (0, "")


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with started(tmp_path, port=port) as server:
            _, errors = server.communicate(timeout=LIMIT)
    last = errors.strip().splitlines()[-1]
    assert server.returncode != 0
    assert f"StudioError: The web page cannot listen on 127.0.0.1:{port}: Address already in use" in last


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org", ""])
def test_it_listens_on_this_machine_only(tmp_path: Path, host: str) -> None:
    with started(tmp_path, host) as server:
        _, errors = server.communicate(timeout=LIMIT)
    assert server.returncode != 0
    assert "SettingsError: The web page cannot listen on" in errors.strip().splitlines()[-1]


def test_the_name_localhost_means_the_same(tmp_path: Path) -> None:
    with started(tmp_path, "localhost") as server:
        assert ready_url(server).startswith("http://127.0.0.1:")
        server.terminate()
        server.communicate(timeout=LIMIT)


def test_it_can_be_started_again_on_the_same_port(tmp_path: Path) -> None:
    with kept_port() as port:
        with running_page(tmp_path, port) as url, urllib.request.urlopen(url, timeout=LIMIT) as answer:
            assert answer.status == 200
        with running_page(tmp_path, port) as again:
            assert again == url

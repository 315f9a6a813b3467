"""The page as a process: where it listens, and how it ends."""

from __future__ import annotations

import signal
import socket
import time
import urllib.request
from pathlib import Path

import pytest
from browser import ready_url, running_page, start_page


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_with_exit_code_0(tmp_path: Path, number: signal.Signals) -> None:
    with start_page(tmp_path) as server:
        url = ready_url(server)
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert b"No experiments yet" in answer.read()
        begun = time.monotonic()
        server.send_signal(number)
        _, errors = server.communicate(timeout=30)
        assert time.monotonic() - begun < 5
    assert (server.returncode, errors) == (0, "")


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with start_page(tmp_path, port=port) as server:
            _, errors = server.communicate(timeout=30)
    last = errors.strip().splitlines()[-1]
    assert server.returncode != 0
    assert f"StudioError: The web page cannot listen on 127.0.0.1:{port}: Address already in use" in last


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org", ""])
def test_it_listens_on_this_machine_only(tmp_path: Path, host: str) -> None:
    with start_page(tmp_path, host) as server:
        _, errors = server.communicate(timeout=30)
    assert server.returncode != 0
    assert "SettingsError: The web page cannot listen on" in errors.strip().splitlines()[-1]


def test_the_name_localhost_means_the_same(tmp_path: Path) -> None:
    with start_page(tmp_path, "localhost") as server:
        assert ready_url(server).startswith("http://127.0.0.1:")
        server.terminate()
        server.communicate(timeout=30)


def test_it_can_be_started_again_on_the_same_port(tmp_path: Path) -> None:
    with running_page(tmp_path) as url, urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.status == 200
    with running_page(tmp_path, int(url.rsplit(":", 1)[1])) as again:
        assert again == url

"""What kombu sees of the transport before there is a connection."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys

import pytest
from kombu import Connection

import transports  # noqa: F401  registers the scheme
from transports.defer import Defer
from transports.errors import BadURL, RequestRefused, ServerUnavailable
from transports.pubsub import Transport

URLS = ["pubsub://proj", "pubsub://127.0.0.1:1/proj?prefix=x-", "pubsub:///?credentials=/k.json"]


@pytest.mark.parametrize("url", URLS)
def test_a_url_finds_the_transport_and_is_shown_as_it_is(url: str) -> None:
    with Connection(url) as connection:
        assert isinstance(connection.transport, Transport)
        assert connection.as_uri() == url
        assert connection.info()["transport"] == "pubsub"


def test_the_class_can_be_named_instead() -> None:
    with Connection("pubsub://proj", transport="transports.pubsub:Transport") as connection:
        assert isinstance(connection.transport, Transport)


def test_it_says_what_it_can_do() -> None:
    implements = Transport.implements
    assert implements.asynchronous
    assert implements.exchange_type == {"direct", "fanout", "topic"}
    assert implements.defer
    assert Transport.driver_type == "gcpubsub"


def test_a_bad_url_is_refused_on_connecting() -> None:
    with Connection("pubsub://h/proj") as connection, pytest.raises(BadURL):
        connection.connect()


def test_no_server_is_said_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with Connection(f"pubsub://127.0.0.1:{port}/proj") as connection, pytest.raises(ServerUnavailable) as caught:
            connection.connect()
    assert f"No Pub/Sub server answers at 127.0.0.1:{port}: start it or check the URL" in str(caught.value)


def test_importing_brings_in_neither_grpc_nor_google() -> None:
    code = "import sys, transports, transports.pubsub; print([m for m in sys.modules if m in ('grpc', 'google')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_deferral_survives_the_way_between_processes() -> None:
    again = pickle.loads(pickle.dumps(Defer(2.5)))
    assert (again.seconds, again.requeue) == (2.5, True)


def test_green_threads_are_refused_with_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transports.pubsub.transport.detect_environment", lambda: "gevent")
    with pytest.raises(RequestRefused, match="-P threads"):
        Connection("pubsub://127.0.0.1:1/project").connect()

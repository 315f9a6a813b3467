"""Broker URLs: who is meant, and what is said about those that cannot be understood."""

from __future__ import annotations

import pytest

from transports.errors import BadURL
from transports.pubsub.server.url import GLOBAL_ENDPOINT, Address, parse

EU = "europe-west1-pubsub.googleapis.com"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("pubsub://proj", Address("proj")),
        ("pubsub://proj/", Address("proj")),
        ("pubsub:///proj", Address("proj")),
        ("pubsub://example.com:proj", Address("example.com:proj")),
        ("pubsub://", Address()),
        ("pubsub:///", Address()),
        ("pubsub://127.0.0.1:8085/studio", Address("studio", server="127.0.0.1:8085")),
        ("pubsub://broker.lan:80/studio/", Address("studio", server="broker.lan:80")),
        ("pubsub://[::1]:8085/studio", Address("studio", server="[::1]:8085")),
        ("pubsub://proj?prefix=dev-", Address("proj", prefix="dev-")),
        ("pubsub://proj?prefix=", Address("proj", prefix="")),
        (f"pubsub://proj?endpoint={EU}", Address("proj", endpoint=f"{EU}:443")),
        (f"pubsub://proj?endpoint={EU}:444", Address("proj", endpoint=f"{EU}:444")),
        ("pubsub://proj?credentials=/etc/a%20key.json", Address("proj", credentials="/etc/a key.json")),
        ("pubsub:///?credentials=/etc/key.json", Address(credentials="/etc/key.json")),
    ],
)
def test_a_url_names_an_address(url: str, address: Address) -> None:
    assert parse(url) == address


def test_the_default_endpoint_is_the_global_one() -> None:
    assert str(parse("pubsub://proj")) == GLOBAL_ENDPOINT


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("pubsub://localhost/proj", "not HOST:PORT"),
        ("pubsub://127.0.0.1:8085", "names no project"),
        ("pubsub://proj?perfix=x", "unknown parameter perfix="),
        ("pubsub://proj?prefix=a~b", "prefix="),
        ("pubsub://proj?prefix=9", "prefix="),
        ("pubsub://h:1/a/b", "not a project id"),
        ("pubsub://me@proj", "not a project id"),
        ("pubsub://h:1/proj?endpoint=e", "leave one of them out"),
        ("pubsub://h:1/proj?credentials=c", "leave one of them out"),
    ],
)
def test_a_url_that_cannot_be_understood_is_refused(url: str, said: str) -> None:
    with pytest.raises(BadURL, match=said):
        parse(url)


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("pubsub://proj", "emulator:1"),
        ("pubsub://h:2/proj", "h:2"),
        ("pubsub://proj?endpoint=e", None),
    ],
)
def test_the_url_beats_the_environment(url: str, server: str | None) -> None:
    assert parse(url, environ={"PUBSUB_EMULATOR_HOST": "emulator:1"}).server == server


def test_an_emulator_host_without_port_is_refused() -> None:
    with pytest.raises(BadURL, match="PUBSUB_EMULATOR_HOST"):
        parse("pubsub://proj", environ={"PUBSUB_EMULATOR_HOST": "emulator"})


def test_a_plain_server_takes_the_project_from_the_environment() -> None:
    environ = {"PUBSUB_EMULATOR_HOST": "h:1", "GOOGLE_CLOUD_PROJECT": "proj"}
    assert parse("pubsub://", environ=environ) == Address("proj", server="h:1")


def test_the_url_beats_the_transport_options() -> None:
    options = {"prefix": "o-", "endpoint": "o", "credentials": "o.json", "max_retries": 3}
    assert parse("pubsub://proj?prefix=u-", options=options) == Address(
        "proj", prefix="u-", endpoint="o:443", credentials="o.json"
    )


def test_a_plain_server_needs_no_credentials_from_the_options() -> None:
    assert parse("pubsub://h:1/proj", options={"credentials": "o.json"}).credentials is None

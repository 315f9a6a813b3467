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
        ("pubsub://h:1/proj?ca=/etc/ca.pem", Address("proj", server="h:1", ca="/etc/ca.pem")),
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
        ("pubsub://proj?ca=c", "names no server"),
        ("pubsub://h:1/proj?token=sbt_x", "unknown parameter token="),
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


class TestTokens:
    SECRET, LOCAL = "sbt_secret", "pubsub://127.0.0.1:1/proj"

    @pytest.mark.parametrize(
        ("options", "environ", "token", "file"),
        [
            ({}, {}, None, None),
            ({}, {"PUBSUB_TOKEN": SECRET}, SECRET, None),
            ({}, {"PUBSUB_TOKEN_FILE": "/f"}, None, "/f"),
            ({}, {"PUBSUB_TOKEN": SECRET, "PUBSUB_TOKEN_FILE": "/f"}, SECRET, None),
            ({"token_file": "/o"}, {"PUBSUB_TOKEN": SECRET, "PUBSUB_TOKEN_FILE": "/f"}, None, "/o"),
            ({}, {"PUBSUB_TOKEN": ""}, None, None),
        ],
    )
    def test_the_option_beats_the_environment(
        self, options: dict[str, str], environ: dict[str, str], token: str | None, file: str | None
    ) -> None:
        address = parse(self.LOCAL, options=options, environ=environ)
        assert (address.token, address.token_file) == (token, file)

    def test_an_address_does_not_show_its_token(self) -> None:
        address = parse(self.LOCAL, environ={"PUBSUB_TOKEN": self.SECRET})
        assert self.SECRET not in f"{address!r} {address}"
        assert address != parse(self.LOCAL)
        assert hash(address) == hash(parse(self.LOCAL, environ={"PUBSUB_TOKEN": self.SECRET}))

    def test_google_is_not_shown_any(self) -> None:
        environ = {"PUBSUB_TOKEN": self.SECRET, "PUBSUB_TOKEN_FILE": "/f"}
        assert parse("pubsub://proj", environ=environ, options={"token_file": "/o", "ca": "/c"}) == Address("proj")

    @pytest.mark.parametrize("server", ["broker.lan:1", "10.0.0.1:1", "localhost.example.com:1", "[2001:db8::1]:1"])
    def test_none_goes_to_another_machine_unencrypted(self, server: str) -> None:
        with pytest.raises(BadURL, match="unencrypted") as caught:
            parse(f"pubsub://{server}/proj", environ={"PUBSUB_TOKEN": self.SECRET})
        assert self.SECRET not in str(caught.value)
        assert parse(f"pubsub://{server}/proj?ca=c", environ={"PUBSUB_TOKEN": self.SECRET}).token == self.SECRET

    @pytest.mark.parametrize("server", ["localhost:1", "127.0.0.2:1", "[::1]:1"])
    def test_to_this_machine_it_may(self, server: str) -> None:
        assert parse(f"pubsub://{server}/proj", environ={"PUBSUB_TOKEN": self.SECRET}).token == self.SECRET

"""Answers of a server that are no success, as errors that kombu understands and people can act on."""

from __future__ import annotations

import pickle

import pytest
from kombu.exceptions import InconsistencyError

from transports import errors
from transports.pubsub import Transport
from transports.pubsub.server.failures import TRANSIENT, failure
from transports.pubsub.server.url import Address

LOCAL = Address("p", server="127.0.0.1:8085")
GOOGLE = Address("p", credentials="/etc/key.json")


def raised(code: str, *, method: str = "Publish", details: str = "why", address: Address = GOOGLE) -> Exception:
    return failure(code, details, method=method, name="projects/p/topics/t", address=address)


@pytest.mark.parametrize("code", sorted(TRANSIENT))
def test_what_may_pass_is_a_connection_error(code: str) -> None:
    assert isinstance(raised(code), errors.ServerUnavailable)
    assert isinstance(raised(code), Transport.connection_errors)
    assert isinstance(raised(code), Transport.recoverable_connection_errors)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("NOT_FOUND", errors.QueueNotFound),
        ("PERMISSION_DENIED", errors.PermissionMissing),
        ("ALREADY_EXISTS", errors.AlreadyExists),
        ("INVALID_ARGUMENT", errors.RequestRefused),
        ("FAILED_PRECONDITION", errors.RequestRefused),
        ("UNIMPLEMENTED", errors.RequestRefused),
    ],
)
def test_what_was_refused_is_a_channel_error(code: str, kind: type[Exception]) -> None:
    assert isinstance(raised(code), kind)
    assert isinstance(raised(code), Transport.channel_errors)
    assert not isinstance(raised(code), Transport.recoverable_connection_errors)


def test_a_missing_queue_is_what_kombus_remote_control_expects() -> None:
    assert isinstance(raised("NOT_FOUND"), InconsistencyError)


@pytest.mark.parametrize(
    ("code", "details"),
    [
        ("UNAUTHENTICATED", ""),
        ("UNAVAILABLE", "Getting metadata from plugin failed with error: ('invalid_grant: ...')"),
    ],
)
def test_a_revoked_key_is_told_from_a_server_out_of_reach(code: str, details: str) -> None:
    exc = raised(code, details=details)
    assert isinstance(exc, errors.NotAuthenticated)
    assert "/etc/key.json" in str(exc)


@pytest.mark.parametrize(
    ("code", "method", "address", "said"),
    [
        ("UNAVAILABLE", "publish", LOCAL, "No Pub/Sub server answers at 127.0.0.1:8085: start it or check the URL"),
        ("UNAVAILABLE", "publish", GOOGLE, "check the network"),
        ("RESOURCE_EXHAUSTED", "publish", GOOGLE, "quota"),
        ("PERMISSION_DENIED", "Publish", GOOGLE, "grant pubsub.topics.publish on the topic"),
        ("PERMISSION_DENIED", "StreamingPull", GOOGLE, "grant pubsub.subscriptions.consume on the subscription"),
        ("NOT_FOUND", "publish", LOCAL, "projects/p/topics/t does not exist at 127.0.0.1:8085: declare its queue"),
    ],
)
def test_a_text_names_cause_and_next_step(code: str, method: str, address: Address, said: str) -> None:
    assert said in str(raised(code, method=method, address=address))


def test_errors_survive_pickling() -> None:
    exc = raised("NOT_FOUND")
    again = pickle.loads(pickle.dumps(exc))
    assert (type(again), str(again)) == (type(exc), str(exc))
    assert "does not exist" in repr(again)

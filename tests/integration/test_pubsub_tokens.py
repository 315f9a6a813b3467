"""Tokens of our broker as keys of submitters and workers: through kombu, with and without TLS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Consumer, Producer, Queue
from kombu.exceptions import OperationalError
from pubsub_servers import ServerProcess, broker_process
from pubsub_tokens import Certificate, make_certificate

import transports  # noqa: F401  (makes `pubsub://` known to kombu)
from transports.errors import PermissionMissing
from transports.local import Role, TokenFile

#: Seconds after which a test gives up waiting for what must come.
LIMIT_SECONDS = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a broker that wants tokens."""
    return tmp_path_factory.mktemp("tokens")


@pytest.fixture(scope="module")
def broker(data: Path) -> Iterator[ServerProcess]:
    """A broker on loopback that wants tokens."""
    with broker_process(data, "--require-tokens") as process:
        yield process


@pytest.fixture
def use(data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Role], None]:
    """Make a token and have it in the environment from now on."""
    return lambda role, *ids: monkeypatch.setenv("PUBSUB_TOKEN", TokenFile(data).create(role, ids)[1])


@contextmanager
def connection(process: ServerProcess, **options: Any) -> Iterator[Connection]:
    """Connect through our transport."""
    options["max_retries"] = 1
    with Connection(f"pubsub://{process.address}/tokens", transport_options=options) as found:
        yield found


def set_up(process: ServerProcess, queue: str) -> None:
    """Declare a queue, as an administrator does once."""
    with connection(process) as server:
        Queue(queue, channel=server.default_channel).declare()


def publish(process: ServerProcess, queue: str, body: str, **options: Any) -> None:
    with connection(process, **options) as server:
        Producer(server.default_channel).publish(body, routing_key=queue)


def consume(process: ServerProcess, queue: str, **options: Any) -> str:
    """Receive and acknowledge one message."""
    bodies: list[str] = []

    def receive(body: str, message: Any) -> None:
        message.ack()
        bodies.append(body)

    with connection(process, **options) as server, Consumer(server, [Queue(queue)], callbacks=[receive]):
        server.drain_events(timeout=LIMIT_SECONDS)
    return bodies[0]


def test_a_submitter_publishes_and_a_worker_consumes(broker: ServerProcess, use: Callable[..., None]) -> None:
    use(Role.EDITOR)
    set_up(broker, "gpu")
    use(Role.PUBLISHER)
    publish(broker, "gpu", "from a submitter")
    use(Role.SUBSCRIBER)
    assert consume(broker, "gpu") == "from a submitter"


def test_a_submitter_cannot_consume(broker: ServerProcess, use: Callable[..., None]) -> None:
    use(Role.EDITOR)
    set_up(broker, "one-way")
    use(Role.PUBLISHER)
    with pytest.raises(PermissionMissing, match=r"pubsub\.subscriptions\.consume"):
        consume(broker, "one-way")


def test_a_worker_cannot_publish(broker: ServerProcess, use: Callable[..., None]) -> None:
    use(Role.EDITOR)
    set_up(broker, "other-way")
    use(Role.SUBSCRIBER)
    with pytest.raises(PermissionMissing, match=r"pubsub\.topics\.publish"):
        publish(broker, "other-way", "never")


def test_a_submitter_for_one_queue_fills_no_other(broker: ServerProcess, use: Callable[..., None]) -> None:
    use(Role.EDITOR)
    set_up(broker, "mine")
    set_up(broker, "theirs")
    use(Role.PUBLISHER, "celery-mine")
    publish(broker, "mine", "welcome")
    with pytest.raises(PermissionMissing):
        publish(broker, "theirs", "never")


def test_without_a_token_the_connection_says_what_to_do(broker: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUBSUB_TOKEN", raising=False)
    with pytest.raises(OperationalError, match="set PUBSUB_TOKEN"):
        publish(broker, "gpu", "never")


def test_a_token_file_is_read_again_when_it_changes(
    broker: ServerProcess, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PUBSUB_TOKEN", raising=False)
    file, tokens = tmp_path / "token", TokenFile(data)
    old, secret = tokens.create(Role.EDITOR)
    file.write_text(f"{secret}\n")
    with connection(broker, token_file=str(file)) as server:
        Queue("turned", channel=server.default_channel).declare()
        producer = Producer(server.default_channel)
        producer.publish("with the old", routing_key="turned")
        fresh = tmp_path / "fresh"
        fresh.write_text(tokens.create(Role.EDITOR)[1])
        fresh.replace(file)
        tokens.revoke(old.id)
        producer.publish("with the new", routing_key="turned")
    assert consume(broker, "turned", token_file=str(file)) == "with the old"


@pytest.mark.parametrize("content", ["", "two words", "ü"])
def test_a_file_without_a_token_is_named(broker: ServerProcess, tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    with pytest.raises(OperationalError, match="holds no token"):
        publish(broker, "gpu", "never", token_file=str(file))


def test_a_missing_file_is_named(broker: ServerProcess, tmp_path: Path) -> None:
    with pytest.raises(OperationalError, match="cannot read the token file"):
        publish(broker, "gpu", "never", token_file=str(tmp_path / "missing"))


class TestEncryption:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Certificate:
        return make_certificate(tmp_path)

    def test_a_server_is_trusted_by_its_certificate(
        self, tmp_path: Path, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = tmp_path / "data"
        monkeypatch.setenv("PUBSUB_TOKEN", TokenFile(data).create(Role.EDITOR)[1])
        options = (f"--tls-cert={certificate.path}", f"--tls-key={certificate.key}")
        with broker_process(data, *options, host="0.0.0.0") as process:
            url = f"pubsub://localhost:{process.address.rpartition(':')[2]}/tokens?ca={certificate.path}"
            with Connection(url, transport_options={"get_timeout_seconds": LIMIT_SECONDS}) as server:
                queue = Queue("gpu", channel=server.default_channel)
                queue.declare()
                Producer(server.default_channel).publish("encrypted", routing_key="gpu")
                assert queue.get(no_ack=True).payload == "encrypted"

    def test_a_certificate_that_cannot_be_read_is_named(self, broker: ServerProcess, tmp_path: Path) -> None:
        with pytest.raises(OperationalError, match="cannot read the certificate"):
            publish(broker, "gpu", "never", ca=str(tmp_path / "missing.pem"))

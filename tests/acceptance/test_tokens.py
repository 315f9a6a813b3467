"""A broker for a network: TLS and tokens, one key for the submitter and another for the worker."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest
from kombu import Connection, Queue
from processes import Studio
from pubsub_tokens import Certificate, make_certificate

import transports  # noqa: F401  registers the scheme
from transports.pubsub.link import links


def token(studio: Studio, *options: str) -> str:
    """Make a token with the command; return its secret."""
    done = studio.command("studio", "broker", "token", "create", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def certificate(process_studio: Studio) -> Certificate:
    return make_certificate(process_studio.folder)


@pytest.fixture
def studio(
    process_studio: Studio, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Studio, str]]:
    """A studio whose broker others can reach, with a queue `gpu` that an administrator made; and his token."""
    editor = token(process_studio, "--role", "editor")
    options = ("--host", "0.0.0.0", "--port", "0", "--tls-cert", certificate.path, "--tls-key", certificate.key)
    broker = process_studio.start("studio", "broker", *map(str, options))
    line = process_studio.first_line(broker)
    url = f"pubsub://localhost:{line.rpartition(':')[2]}/studio?ca={certificate.path}"
    process_studio.environ["STUDIO_BROKER_URL"] = url
    monkeypatch.setenv("PUBSUB_TOKEN", editor)
    with Connection(url) as connection:
        Queue("gpu")(connection.default_channel).declare()
    yield process_studio, editor
    links.close()


def test_an_experiment_runs_to_its_end(studio: tuple[Studio, str]) -> None:
    home, editor = studio
    secret = home.folder / "worker.token"
    secret.write_text(token(home, "--role", "subscriber", "--queue", "gpu") + "\n")
    worker = home.worker("gpu", PUBSUB_TOKEN_FILE=str(secret))
    home.environ["PUBSUB_TOKEN"] = token(home, "--role", "publisher", "--queue", "gpu")
    experiment = home.submit("--queue", "gpu", home.script("print('over TLS')"))
    assert home.ended(experiment)["status"] == "finished"
    assert home.log(experiment) == b"over TLS\n"
    refused = home.command("studio", "queues", "ls")
    assert refused.returncode == 1
    assert "token with the role viewer" in refused.stderr
    listed = home.command("studio", "queues", "ls", "--json", PUBSUB_TOKEN=editor)
    (queue,) = [each for each in json.loads(listed.stdout) if each["queue"] == "gpu"]
    assert (queue["waiting"], queue["consumers"]) == (0, 1)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert home.environ["PUBSUB_TOKEN"] not in home.output(worker, "err")


def test_without_a_token_nothing_is_submitted_and_the_sentence_says_why(studio: tuple[Studio, str]) -> None:
    home, _ = studio
    done = home.command("studio-runner", "--queue", "gpu", home.script("print(1)"))
    assert done.returncode == 1
    assert "PUBSUB_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr

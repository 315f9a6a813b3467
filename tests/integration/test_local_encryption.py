"""The broker on an address that others can reach: TLS and tokens, or no start."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from google.api_core.exceptions import ServiceUnavailable, Unauthenticated
from ports import kept_port
from pubsub_client import LIMIT_SECONDS, texts
from pubsub_servers import broker_process
from pubsub_tokens import Certificate, connected, make_certificate
from studio import wait_for

from transports.local import Broker, Options, Role, StartError, TokenFile, statistics

PROJECT = "access"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for this machine."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


class TestOtherAddresses:
    def test_without_tls_the_broker_does_not_start(self, tmp_path: Path) -> None:
        TokenFile(tmp_path).create(Role.EDITOR)
        with pytest.raises(StartError, match="without TLS"):
            Broker(tmp_path, host="0.0.0.0").__enter__()

    def test_without_tokens_the_broker_does_not_start(self, tmp_path: Path, certificate: Certificate) -> None:
        with pytest.raises(StartError, match=r"without tokens.*studio broker token create"):
            Broker(tmp_path, host="0.0.0.0", options=certificate.options).__enter__()
        assert list(tmp_path.iterdir()) == []

    def test_with_both_it_serves_who_has_a_token(self, tmp_path: Path, certificate: Certificate) -> None:
        _, secret = TokenFile(tmp_path).create(Role.EDITOR)
        options = (f"--tls-cert={certificate.path}", f"--tls-key={certificate.key}")
        with broker_process(tmp_path, *options, host="0.0.0.0") as process:
            address = f"localhost:{process.address.rpartition(':')[2]}"
            with connected(address, secret, PROJECT, certificate.path) as editor:
                path = editor.setup()
                editor.publish("hello")
                assert texts(editor.pull(path)) == ["hello"]
            (found,) = statistics(address, PROJECT, token=secret, ca=certificate.path)
            assert (found.waiting, found.leased) == (0, 1)
            with connected(address, None, PROJECT, certificate.path) as stranger, pytest.raises(Unauthenticated):
                stranger.publish("hello")

    def test_a_file_that_is_no_certificate_is_named(self, tmp_path: Path, certificate: Certificate) -> None:
        other = make_certificate(tmp_path)
        missing = tmp_path / "missing.pem"
        for options, said in [
            (Options(tls_cert=certificate.path), "both"),
            (Options(tls_cert=missing, tls_key=certificate.key), "missing.pem"),
            (Options(tls_cert=certificate.key, tls_key=certificate.key), "Cannot use the certificate"),
            (Options(tls_cert=certificate.path, tls_key=other.key), "KEY_VALUES_MISMATCH"),
        ]:
            with pytest.raises(StartError, match=said):
                Broker(tmp_path / "data", options=options).__enter__()

    def test_a_key_with_a_password_is_refused_and_asks_nobody(self, tmp_path: Path, certificate: Certificate) -> None:
        locked = tmp_path / "locked.key"
        command = f"openssl pkcs8 -topk8 -in {certificate.key} -out {locked} -passout pass:secret"
        subprocess.run(command.split(), check=True, capture_output=True)
        argv = ["-m", "transports.local", f"--data={tmp_path}", f"--tls-cert={certificate.path}", f"--tls-key={locked}"]
        done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert "the key has a password" in done.stderr


class TestRenewal:
    """A broker on loopback with a certificate whose files are replaced."""

    @pytest.fixture
    def served(self, tmp_path: Path, certificate: Certificate) -> Certificate:
        """The files that the broker reads."""
        return Certificate(
            Path(shutil.copy(certificate.path, tmp_path / "served.pem")),
            Path(shutil.copy(certificate.key, tmp_path / "served.key")),
        )

    @pytest.fixture
    def renewed(self, tmp_path: Path) -> Certificate:
        (tmp_path / "renewed").mkdir()
        return make_certificate(tmp_path / "renewed")

    def answers(self, address: str, port: int, ca: Path) -> tuple[bool, bool]:
        """Say whether gRPC and the page of metrics show a certificate that ``ca`` vouches for, on new connections."""
        with connected(f"localhost:{address.rpartition(':')[2]}", None, PROJECT, ca) as client:
            try:
                list(client.publisher.list_topics(project=client.project, retry=None, timeout=LIMIT_SECONDS))
                grpc_trusted = True
            except ServiceUnavailable:
                grpc_trusted = False
        try:
            context = ssl.create_default_context(cafile=str(ca))
            urllib.request.urlopen(f"https://localhost:{port}/metrics", context=context, timeout=LIMIT_SECONDS).close()
        except urllib.error.URLError as exc:
            return grpc_trusted, not isinstance(exc.reason, ssl.SSLCertVerificationError)
        return grpc_trusted, True

    def test_it_is_served_without_a_restart_once_both_files_are_good(
        self, tmp_path: Path, certificate: Certificate, served: Certificate, renewed: Certificate
    ) -> None:
        files = (f"--tls-cert={served.path}", f"--tls-key={served.key}")
        with (
            kept_port() as port,
            broker_process(tmp_path / "data", *files, f"--metrics-port={port}") as process,
        ):
            assert self.answers(process.address, port, certificate.path) == (True, True)
            shutil.copy(renewed.path, served.path)
            # The key is still that of the former one.
            assert self.answers(process.address, port, certificate.path) == (True, True)
            wait_for("a line about it", lambda: "The former certificate is served on." in process.output)
            shutil.copy(renewed.key, served.key)
            assert self.answers(process.address, port, renewed.path) == (True, True)
            assert self.answers(process.address, port, certificate.path) == (False, False)
            served.path.unlink()
            assert self.answers(process.address, port, renewed.path) == (True, True)

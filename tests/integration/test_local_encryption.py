"""The broker on an address that others can reach: TLS and tokens, or no start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.api_core.exceptions import Unauthenticated
from pubsub_client import texts
from pubsub_servers import broker_process
from pubsub_tokens import Certificate, connected, make_certificate

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

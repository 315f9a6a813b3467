"""`studio broker token` and `studio queues` against a broker that wants tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pubsub_servers import broker_process
from pubsub_tokens import connected


class TestCommands:
    @pytest.fixture
    def studio(self, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("STUDIO_", "PUBSUB_"))}
        environ["STUDIO_HOME"] = str(tmp_path / "home")

        def run(*argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
            command = [str(Path(sys.executable).with_name("studio")), *argv]
            return subprocess.run(
                command, env={**environ, **variables}, cwd=tmp_path, capture_output=True, text=True, timeout=120
            )

        return run

    def test_a_token_is_made_listed_and_revoked(
        self, studio: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
    ) -> None:
        made = json.loads(studio("broker", "token", "create", "--role=viewer", "--queue=gpu", "--json").stdout)
        assert made["resources"] == ["celery-gpu", "celery-priority~*~gpu", "celery-dead~gpu"]
        plain = studio("broker", "token", "create", "--role=publisher", "--name=laptop")
        assert plain.stdout.startswith("sbt_")
        assert plain.stdout.count("\n") == 1
        listed = studio("broker", "token", "list", "--json").stdout
        assert {each["name"] for each in json.loads(listed)} == {made["name"], "laptop"}
        assert made["secret"] not in listed
        assert (
            json.loads(studio("broker", "token", "revoke", made["id"], "laptop", "--json").stdout)[1]["name"]
            == "laptop"
        )
        assert json.loads(studio("broker", "token", "list", "--json").stdout) == []
        assert (tmp_path / "home" / "broker" / "tokens.json").exists()

    def test_the_directory_may_stand_before_or_after(
        self, studio: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
    ) -> None:
        assert studio("broker", f"--data={tmp_path}", "token", "create", "--role=viewer", "--name=one").returncode == 0
        listed = studio("broker", "token", "list", f"--data={tmp_path}", "--json").stdout
        assert [each["name"] for each in json.loads(listed)] == ["one"]

    def test_what_is_wrong_is_one_sentence(self, studio: Callable[..., subprocess.CompletedProcess[str]]) -> None:
        gone = studio("broker", "token", "revoke", "ghost")
        assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)
        assert gone.stderr.startswith("Error: There is no token 'ghost'")
        assert studio("broker", "token", "create", "--role=king").returncode == 2
        elsewhere = {"STUDIO_BROKER_URL": "pubsub://project", "STUDIO_STORE": "gs://bucket"}
        google = studio("queues", "ls", GOOGLE_APPLICATION_CREDENTIALS="/nowhere/key.json", **elsewhere)
        assert (google.returncode, google.stderr.count("\n")) == (1, 1)
        assert google.stderr.startswith("Error: pubsub.googleapis.com:443 does not accept")
        assert "/nowhere/key.json was not found" in google.stderr

    def test_queues_are_listed_with_what_is_in_them(
        self, studio: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
    ) -> None:
        data = tmp_path / "home" / "broker"
        with broker_process(data, "--require-tokens") as process:
            editor = json.loads(studio("broker", "token", "create", "--role=editor", "--json").stdout)["secret"]
            viewer = studio("broker", "token", "create", "--role=viewer").stdout.strip()
            self.fill(process.address, editor)
            url = f"pubsub://{process.address}/studio"
            listed = studio("queues", "ls", "--json", STUDIO_BROKER_URL=url, PUBSUB_TOKEN=viewer)
            (row,) = json.loads(listed.stdout)
            assert row.pop("oldest_age_seconds") < 60
            assert row == {"queue": "gpu", "waiting": 2, "leased": 0, "consumers": 0}
            text = studio("queues", "ls", STUDIO_BROKER_URL=url, PUBSUB_TOKEN=viewer).stdout.splitlines()
            assert text[0].split() == ["QUEUE", "WAITING", "LEASED", "OLDEST", "CONSUMERS"]
            assert text[1].split()[:3] == ["gpu", "2", "0"]
            refused = studio("queues", "ls", STUDIO_BROKER_URL=url)
            assert (refused.returncode, "refuses" in refused.stderr) == (1, True)

    def fill(self, address: str, secret: str) -> None:
        """Make a queue as our transport calls it, one that Celery's workers talk over, and another application's."""
        with connected(address, secret, "studio") as server:
            server.setup("celery-gpu", topic="celery-gpu")
            server.setup("celery-fanout~celery.pidbox~host", topic="celery-fanout~celery.pidbox")
            server.setup("other", topic="other")
            server.publish("one", "two", topic="celery-gpu")

"""``python -m transports.local``: tokens and options, without a studio."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from google.api_core.exceptions import Unauthenticated
from pubsub_client import PubSub, texts
from pubsub_servers import broker_process
from pubsub_tokens import connected


def local(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "transports.local", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


class TestTokens:
    def test_one_is_made_listed_used_and_revoked(self, tmp_path: Path) -> None:
        data = f"--data={tmp_path}"
        made = local("token", "create", data, "--role=editor", "--name=anna")
        assert made.returncode == 0
        secret = made.stdout.strip()
        assert "PUBSUB_TOKEN" in made.stderr
        listed = local("token", "list", data).stdout.split("\t")
        assert listed[1:4] == ["anna", "editor", "everything"]
        assert secret not in (tmp_path / "tokens.json").read_text()
        with (
            broker_process(tmp_path, "--require-tokens") as process,
            connected(process.address, secret, "command") as client,
        ):
            subscription = client.setup()
            client.publish("one")
            assert texts(client.pull(subscription)) == ["one"]
            assert local("token", "revoke", data, "anna").stdout == f"{listed[0]} anna revoked\n"
            with pytest.raises(Unauthenticated):
                client.publisher.get_topic(topic=client.topic())
        assert local("token", "list", data).stdout == ""

    def test_one_can_be_limited(self, tmp_path: Path) -> None:
        data = f"--data={tmp_path}"
        local("token", "create", data, "--role=publisher", "--resource=sub*", "--resource=topic", "--name=bert")
        assert local("token", "list", data).stdout.split("\t")[1:4] == ["bert", "publisher", "sub*,topic"]

    def test_what_cannot_be_done_is_told_in_one_line(self, tmp_path: Path) -> None:
        done = local("token", "revoke", f"--data={tmp_path}", "anna")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.splitlines() == ["There is no token 'anna': `token list` shows those there are."]


class TestOptions:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "--data"),
            (["--data=x", "--grace-seconds=soon"], "'soon' is no number of seconds"),
            (["--data=x", "--grace-seconds=601"], "601 is not from 0 to 600 seconds"),
            (["--data=x", "--silence-seconds=soon"], "invalid float value: 'soon'"),
        ],
    )
    def test_wrong_ones_are_refused(self, arguments: list[str], said: str) -> None:
        done = local(*arguments)
        assert done.returncode == 2
        assert said in done.stderr

    def test_a_silence_that_is_too_short_is_told_in_one_line(self, tmp_path: Path) -> None:
        done = local(f"--data={tmp_path}", "--silence-seconds=0.5")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.splitlines() == [
            "Clients cannot be taken for gone after 0.5 seconds of silence: choose from 1 to 3600 (--silence-seconds)."
        ]

    def test_leases_that_end_meanwhile_outlive_a_restart_for_as_long_as_was_asked_for(self, tmp_path: Path) -> None:
        with broker_process(tmp_path) as process, PubSub(process.address) as client:
            subscription, project = client.setup(ack_deadline_seconds=600), client.project
            client.publish("one")
            client.modify(subscription, *client.pull(subscription), seconds=3)
        time.sleep(3)  # not a wait: the lease ends
        for seconds, ready in ((600, []), (0, ["one"])):
            with (
                broker_process(tmp_path, f"--grace-seconds={seconds}") as process,
                PubSub(process.address) as client,
            ):
                client.project = project
                assert client.ready(subscription) == ready

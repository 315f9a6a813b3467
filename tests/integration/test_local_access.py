"""Tokens at a running broker: who is let in, who may do what, and that a revoked token ends at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.api_core.exceptions import PermissionDenied, Unauthenticated
from google.iam.v1 import iam_policy_pb2
from google.pubsub_v1 import types
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pubsub_client import LIMIT_SECONDS, PubSub, texts
from pubsub_servers import ServerProcess, broker_process
from pubsub_tokens import connected

from transports.local import Role, TokenFile, statistics

PROJECT = "access"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a broker that wants tokens."""
    return tmp_path_factory.mktemp("access")


@pytest.fixture(scope="module")
def guarded(data: Path) -> Iterator[ServerProcess]:
    """A broker on loopback that wants tokens; a queue `gpu` and a queue `cpu`."""
    with broker_process(data, "--require-tokens") as process:
        _, secret = TokenFile(data).create(Role.EDITOR, name="administrator")
        with connected(process.address, secret, PROJECT) as editor:
            editor.setup("gpu", topic="gpu")
            editor.setup("cpu", topic="cpu")
        yield process


@pytest.fixture
def key(data: Path, guarded: ServerProcess) -> Callable[..., str]:
    """Make a token of this broker; the secret."""
    return lambda role, *resources: TokenFile(data).create(role, resources)[1]


@contextmanager
def denied(permission: str, resource: str) -> Iterator[None]:
    """Expect the refusal that Google's service would give."""
    with pytest.raises(PermissionDenied) as caught:
        yield
    assert str(caught.value).startswith("403 User not authorized to perform this action.")
    assert permission in str(caught.value)
    assert caught.value.reason == "IAM_PERMISSION_DENIED"
    assert caught.value.metadata == {"permission": permission, "resource": resource}


def pull_once(server: PubSub, name: str) -> None:
    """Ask once for a message of a subscription."""
    request = {"subscription": server.subscription(name), "max_messages": 1}
    server.subscriber.pull(request=request, retry=None, timeout=LIMIT_SECONDS)


def attach(server: PubSub, name: str, topic: str) -> None:
    """Create a subscription."""
    server.subscriber.create_subscription(name=server.subscription(name), topic=server.topic(topic))


def iter_forever(first: dict[str, str]) -> Iterator[types.StreamingPullRequest]:
    """Give a stream's first request, and leave it open."""
    yield types.StreamingPullRequest(stream_ack_deadline_seconds=600, **first)
    threading.Event().wait(LIMIT_SECONDS)


class TestRoles:
    def test_a_submitters_token_publishes_and_nothing_else(
        self, guarded: ServerProcess, key: Callable[..., str]
    ) -> None:
        with connected(guarded.address, key(Role.PUBLISHER), PROJECT) as submitter:
            assert submitter.publish("hello", topic="gpu")
            with denied("pubsub.subscriptions.consume", submitter.subscription("gpu")):
                pull_once(submitter, "gpu")
            with denied("pubsub.topics.get", submitter.topic("gpu")):
                submitter.publisher.get_topic(topic=submitter.topic("gpu"))
            with denied("pubsub.topics.create", submitter.topic("new")):
                submitter.publisher.create_topic(name=submitter.topic("new"))
            with denied("pubsub.topics.list", submitter.project):
                list(submitter.publisher.list_topics(project=submitter.project))

    def test_a_workers_token_consumes_and_nothing_else(self, guarded: ServerProcess, key: Callable[..., str]) -> None:
        with connected(guarded.address, key(Role.EDITOR), PROJECT) as editor:
            editor.setup("work", topic="work")
            editor.publish("one", "two", topic="work")
        with connected(guarded.address, key(Role.SUBSCRIBER), PROJECT) as worker:
            path = worker.subscription("work")
            (one,) = worker.pull(path)
            worker.modify(path, one, seconds=60)
            worker.acknowledge(path, one)
            with worker.stream(path) as stream:
                assert texts(stream.take()) == ["two"]
            with denied("pubsub.topics.publish", worker.topic("work")):
                worker.publish("again", topic="work")
            with denied("pubsub.subscriptions.delete", path):
                worker.subscriber.delete_subscription(subscription=path)
            with denied("pubsub.subscriptions.create", worker.subscription("other")):
                attach(worker, "other", "work")

    def test_a_viewers_token_looks_and_touches_nothing(self, guarded: ServerProcess, key: Callable[..., str]) -> None:
        with connected(guarded.address, key(Role.VIEWER), PROJECT) as viewer:
            assert viewer.topic("gpu") in {each.name for each in viewer.publisher.list_topics(project=viewer.project)}
            assert viewer.subscriber.get_subscription(subscription=viewer.subscription("gpu"))
            with denied("pubsub.topics.publish", viewer.topic("gpu")):
                viewer.publish("hello", topic="gpu")
            with denied("pubsub.subscriptions.consume", viewer.subscription("gpu")):
                pull_once(viewer, "gpu")

    def test_a_stream_is_refused_by_its_first_request(self, guarded: ServerProcess, key: Callable[..., str]) -> None:
        with (
            connected(guarded.address, key(Role.PUBLISHER), PROJECT) as submitter,
            submitter.stream(submitter.subscription("gpu")) as stream,
        ):
            assert isinstance(stream.end(), PermissionDenied)


class TestSomeQueuesOnly:
    def test_a_token_for_one_queue_opens_no_other(self, guarded: ServerProcess, key: Callable[..., str]) -> None:
        with connected(guarded.address, key(Role.EDITOR, "gpu", "gpu-*"), PROJECT) as editor:
            assert editor.publish("hello", topic="gpu")
            attach(editor, "gpu-second", "gpu")
            with denied("pubsub.topics.publish", editor.topic("cpu")):
                editor.publish("hello", topic="cpu")
            with denied("pubsub.topics.attachSubscription", editor.topic("cpu")):
                attach(editor, "gpu-third", "cpu")
            with denied("pubsub.topics.create", editor.topic("cpu2")):
                editor.publisher.create_topic(name=editor.topic("cpu2"))

    def test_what_is_missing_looks_like_what_is_forbidden(
        self, guarded: ServerProcess, key: Callable[..., str]
    ) -> None:
        with connected(guarded.address, key(Role.PUBLISHER, "gpu"), PROJECT) as submitter:
            for name in ("cpu", "there-is-no-such-topic"):
                with denied("pubsub.topics.publish", submitter.topic(name)):
                    submitter.publish("hello", topic=name)

    def test_statistics_show_what_the_token_is_for(self, guarded: ServerProcess, key: Callable[..., str]) -> None:
        secret = key(Role.VIEWER, "cpu")
        found = statistics(guarded.address, PROJECT, token=secret)
        assert [each.name for each in found] == [f"projects/{PROJECT}/subscriptions/cpu"]


class TestTestIamPermissions:
    ASKED = ("pubsub.topics.publish", "pubsub.topics.get", "pubsub.topics.delete")

    @pytest.mark.parametrize(
        ("role", "expected"),
        [
            (Role.PUBLISHER, ["pubsub.topics.publish"]),
            (Role.SUBSCRIBER, []),
            (Role.VIEWER, ["pubsub.topics.get"]),
            (Role.EDITOR, list(ASKED)),
        ],
    )
    def test_it_answers_by_role(
        self, guarded: ServerProcess, key: Callable[..., str], role: Role, expected: list[str]
    ) -> None:
        assert self._ask(guarded, key(role)) == expected

    def test_it_answers_nothing_for_another_queue(self, guarded: ServerProcess, key: Callable[..., str]) -> None:
        assert self._ask(guarded, key(Role.EDITOR, "cpu")) == []

    def _ask(self, guarded: ServerProcess, secret: str) -> list[str]:
        with connected(guarded.address, secret, PROJECT) as server:
            request = iam_policy_pb2.TestIamPermissionsRequest(resource=server.topic("gpu"), permissions=self.ASKED)
            return list(server.publisher.test_iam_permissions(request=request).permissions)


class TestStrangers:
    @pytest.mark.parametrize("secret", [None, "sbt_unknown", "", "{}"])
    def test_they_are_not_let_in(self, guarded: ServerProcess, secret: str | None) -> None:
        with connected(guarded.address, secret, PROJECT) as stranger:
            with pytest.raises(Unauthenticated, match=r"authentication credential.*studio broker token create"):
                stranger.publish("hello", topic="gpu")
            with stranger.stream(stranger.subscription("gpu")) as stream:
                assert isinstance(stream.end(), Unauthenticated)

    def test_they_may_ask_for_its_health(self, guarded: ServerProcess) -> None:
        with connected(guarded.address, None, PROJECT) as stranger:
            stub = health_pb2_grpc.HealthStub(stranger.channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=LIMIT_SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    def test_refusals_are_logged_once_in_a_while_and_without_the_secret(self, tmp_path: Path) -> None:
        with broker_process(tmp_path, "--require-tokens") as process:
            with connected(process.address, "sbt_guessed", PROJECT) as stranger:
                for _ in range(20):
                    with pytest.raises(Unauthenticated):
                        stranger.publish("hello", topic="gpu")
            process.stop()
            assert process.output.count("refused: Publish from") == 1
            assert "sbt_guessed" not in process.output


class TestRevoking:
    def test_requests_are_refused_at_once_and_streams_and_pulls_end(self, guarded: ServerProcess, data: Path) -> None:
        token, secret = TokenFile(data).create(Role.SUBSCRIBER)
        with connected(guarded.address, secret, PROJECT) as worker:
            pull = worker.start_pull(worker.subscription("cpu"))
            with worker.stream(worker.subscription("cpu")) as stream:
                TokenFile(data).revoke(token.id)
                with pytest.raises(Unauthenticated):
                    pull_once(worker, "cpu")
                assert isinstance(stream.end(), Unauthenticated)
            assert "UNAUTHENTICATED" in str(pull.exception())

    def test_what_a_stream_held_stays_until_its_deadline_and_others_go_on(
        self, guarded: ServerProcess, data: Path, key: Callable[..., str]
    ) -> None:
        with connected(guarded.address, key(Role.EDITOR), PROJECT) as editor:
            path = editor.setup("revoked", topic="revoked")
            token, secret = TokenFile(data).create(Role.SUBSCRIBER)
            with connected(guarded.address, secret, PROJECT) as worker, worker.stream(path) as stream:
                editor.publish("one", topic="revoked")
                (one,) = stream.take()
                TokenFile(data).revoke(token.name)
                assert isinstance(stream.end(), Unauthenticated)
            editor.publish("two", topic="revoked")
            assert texts(editor.pull(path)) == ["two"]
            editor.acknowledge(path, one)

    def test_a_stream_that_nobody_reads_ends_too(self, tmp_path: Path) -> None:
        token, secret = TokenFile(tmp_path).create(Role.EDITOR)
        with broker_process(tmp_path, "--require-tokens") as process, connected(process.address, secret, "p") as worker:
            path = worker.setup()
            for _ in range(20):
                worker.publish("x" * 1_000_000)
            call = worker.subscriber.streaming_pull(iter_forever({"subscription": path}))
            next(call)
            TokenFile(tmp_path).revoke(token.id)
            with pytest.raises(Unauthenticated, match="revoked"):
                list(call)
            assert "Traceback" not in process.output

    def test_a_damaged_file_lets_nobody_in_until_it_is_mended(self, tmp_path: Path) -> None:
        file = TokenFile(tmp_path)
        _, secret = file.create(Role.EDITOR)
        with broker_process(tmp_path, "--require-tokens") as process, connected(process.address, secret, "p") as editor:
            editor.setup()
            kept = file.path.read_bytes()
            file.path.write_text("{")
            with pytest.raises(Unauthenticated, match="cannot read its tokens"):
                editor.publish("one")
            file.path.write_bytes(kept)
            assert editor.publish("one")


def test_without_tokens_required_a_token_is_neither_needed_nor_looked_at(local_broker_address: str) -> None:
    with connected(local_broker_address, "sbt_whatever", PROJECT) as anybody:
        assert anybody.setup("open", topic="open")
        assert isinstance(anybody, PubSub)

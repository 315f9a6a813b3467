"""Requests that no client would make: each is answered with a status, and the broker goes on as if nothing had been."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.iam.v1 import iam_policy_pb2
from google.protobuf import struct_pb2
from google.pubsub_v1 import types
from pubsub_client import PubSub, texts
from pubsub_fuzz import Fuzzer
from pubsub_servers import ServerProcess, broker_process

#: Requests to each method; a torture run may ask for more.
REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "150"))
SEED = int(os.environ.get("FUZZ_SEED", "20261122"))
#: Requests under way at a time.
AT_A_TIME = 32
#: Seconds a request may take; a pull that found nothing ends then.
SECONDS = 1.0
#: Bytes by which the broker may grow; it leaves less than one when asked a thousand times as much.
GROWTH_BYTES = 10_000_000

_PUBLISHER = {
    "CreateTopic": "Topic",
    "GetTopic": "GetTopicRequest",
    "UpdateTopic": "UpdateTopicRequest",
    "ListTopics": "ListTopicsRequest",
    "ListTopicSubscriptions": "ListTopicSubscriptionsRequest",
    "ListTopicSnapshots": "ListTopicSnapshotsRequest",
    "DeleteTopic": "DeleteTopicRequest",
    "DetachSubscription": "DetachSubscriptionRequest",
    "Publish": "PublishRequest",
}
_SUBSCRIBER = {
    "CreateSubscription": "Subscription",
    "GetSubscription": "GetSubscriptionRequest",
    "UpdateSubscription": "UpdateSubscriptionRequest",
    "ListSubscriptions": "ListSubscriptionsRequest",
    "DeleteSubscription": "DeleteSubscriptionRequest",
    "Acknowledge": "AcknowledgeRequest",
    "ModifyAckDeadline": "ModifyAckDeadlineRequest",
    "ModifyPushConfig": "ModifyPushConfigRequest",
    "Pull": "PullRequest",
    "StreamingPull": "StreamingPullRequest",
    "Seek": "SeekRequest",
    "CreateSnapshot": "CreateSnapshotRequest",
    "GetSnapshot": "GetSnapshotRequest",
    "ListSnapshots": "ListSnapshotsRequest",
    "UpdateSnapshot": "UpdateSnapshotRequest",
    "DeleteSnapshot": "DeleteSnapshotRequest",
}
METHODS: dict[str, Any] = {
    **{f"/google.pubsub.v1.Publisher/{name}": getattr(types, kind).pb() for name, kind in _PUBLISHER.items()},
    **{f"/google.pubsub.v1.Subscriber/{name}": getattr(types, kind).pb() for name, kind in _SUBSCRIBER.items()},
    "/google.iam.v1.IAMPolicy/TestIamPermissions": iam_policy_pb2.TestIamPermissionsRequest,
    "/google.iam.v1.IAMPolicy/SetIamPolicy": iam_policy_pb2.SetIamPolicyRequest,
    "/studio.broker.v1.Statistics/List": struct_pb2.Struct,
}
#: Answers that would mean that the broker has stumbled.
STUMBLED = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A broker of its own, warm: as large as it gets by being used."""
    with broker_process(tmp_path_factory.mktemp("fuzz")) as process:
        with PubSub(process.address) as server:
            path = server.setup()
            server.publish(*map(str, range(1000)))
            server.acknowledge(path, *server.pull(path, 1000))
        yield process


def resident_bytes(process: ServerProcess) -> int:
    """Return how much memory a process has."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def answers(server: PubSub, method: str, requests: list[bytes]) -> Iterator[grpc.StatusCode]:
    """Send raw requests, some at a time, and give the status of each."""
    ask: Callable[..., Any]
    if method.endswith("StreamingPull"):
        call = server.channel.stream_stream(method)
        for data in requests:
            yield status_of_stream(call(iter([data, *requests[:2]][: 1 + data.count(b"1")]), timeout=SECONDS))
        return
    ask = server.channel.unary_unary(method).future
    for start in range(0, len(requests), AT_A_TIME):
        under_way = [ask(data, timeout=SECONDS) for data in requests[start : start + AT_A_TIME]]
        for each in under_way:
            error = each.exception()
            yield grpc.StatusCode.OK if error is None else error.code()


def status_of_stream(call: Any) -> grpc.StatusCode:
    """Read a stream to its end."""
    try:
        for _ in call:
            continue
    except grpc.RpcError as exc:
        return exc.code()
    return grpc.StatusCode.OK


def sense(server: PubSub) -> dict[str, list[Any]]:
    """Return what a client might write into the fields of requests."""
    topics, subscriptions = [server.topic(), server.topic("other")], [server.setup("subscription", "other")]
    subscriptions.append(server.subscription("other"))
    received = server.publish(*map(str, range(20))) and server.pull(subscriptions[0], 10)
    return {
        "topic": topics,
        "subscription": subscriptions,
        "name": [*topics, *subscriptions, f"{server.project}/snapshots/other"],
        "snapshot": [f"{server.project}/snapshots/other"],
        "project": [server.project],
        "resource": [*topics, *subscriptions],
        "permissions": ["pubsub.topics.publish"],
        "paths": ["labels", "ack_deadline_seconds", "expiration_policy.ttl", "message_retention_duration"],
        "ack_ids": [each.ack_id for each in received],
        "modify_deadline_ack_ids": [each.ack_id for each in received],
        "modify_deadline_seconds": [0, 10, 600],
        "ack_deadline_seconds": [10, 600, 0],
        "stream_ack_deadline_seconds": [10, 600],
        "max_messages": [1, 1000],
        "page_size": [1, 1000],
        "data": [b"body"],
        "seconds": [700, 86400, 1_700_000_000],
        "key": ["key"],
        "value": ["value"],
    }


@pytest.mark.parametrize("method", METHODS)
def test_every_request_is_answered(process: ServerProcess, method: str) -> None:
    with PubSub(process.address) as server:
        requests = list(Fuzzer(SEED, sense(server)).requests(METHODS[method], REQUESTS))
        codes = Counter(answers(server, method, requests))
    assert not STUMBLED & codes.keys(), f"{codes}; the broker said:\n{process.output[-3000:]}"
    assert codes.total() == REQUESTS


def test_afterwards_it_serves_and_has_not_grown(process: ServerProcess) -> None:
    before = resident_bytes(process)
    for seed in range(SEED + 1, SEED + 3):
        with PubSub(process.address) as server:
            fuzzer = Fuzzer(seed, sense(server))
            for method, request_class in METHODS.items():
                assert not STUMBLED & set(answers(server, method, list(fuzzer.requests(request_class, REQUESTS))))
    assert resident_bytes(process) - before < GROWTH_BYTES
    with PubSub(process.address) as server:
        path = server.setup()
        server.publish("as ever")
        assert texts(server.pull(path)) == ["as ever"]
    assert "Traceback" not in process.output, process.output[-5000:]

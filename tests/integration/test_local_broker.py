"""Our broker as a server: what it refuses by name, health, many streams, start and stop."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api_core.exceptions import InvalidArgument, MethodNotImplemented, ServiceUnavailable
from google.protobuf.field_mask_pb2 import FieldMask
from google.pubsub_v1 import SchemaServiceClient, types
from google.pubsub_v1.services.schema_service.transports import SchemaServiceGrpcTransport
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pubsub_client import LIMIT_SECONDS, PubSub, texts
from pubsub_servers import broker_process

from transports.local import Broker, BrokerError, StartError


def settled(server: PubSub, subscription: str) -> None:
    """Return when the broker has done what was asked before: a request later than all of it was answered."""
    server.subscriber.get_subscription(subscription=subscription)


class TestWhatIsNotImplemented:
    @pytest.mark.parametrize(
        "fields",
        [
            {"push_config": {"push_endpoint": "https://example.com"}},
            {"bigquery_config": {"table": "project.dataset.table"}},
            {"cloud_storage_config": {"bucket": "bucket"}},
            {"message_transforms": [{"disabled": True}]},
        ],
    )
    def test_a_subscription_with_it_is_refused_by_name(self, local_pubsub: PubSub, fields: dict[str, Any]) -> None:
        with pytest.raises(MethodNotImplemented, match=next(iter(fields))):
            local_pubsub.setup(**fields)

    @pytest.mark.parametrize(
        "fields", [{"schema_settings": {"schema": "projects/p/schemas/s"}}, {"kms_key_name": "projects/p/key"}]
    )
    def test_a_topic_with_it_is_refused_by_name(self, local_pubsub: PubSub, fields: dict[str, Any]) -> None:
        with pytest.raises(MethodNotImplemented, match=next(iter(fields))):
            local_pubsub.publisher.create_topic(request={"name": local_pubsub.topic(), **fields})

    @pytest.mark.parametrize("path", ["push_config", "bigquery_config"])
    def test_changing_a_subscription_to_it_is_refused_by_name(self, local_pubsub: PubSub, path: str) -> None:
        settings = {"name": local_pubsub.setup(), "push_config": {"push_endpoint": "https://example.com"}}
        with pytest.raises(MethodNotImplemented, match=path):
            local_pubsub.subscriber.update_subscription(subscription=settings, update_mask=FieldMask(paths=[path]))

    def test_an_empty_push_config_means_pull(self, local_pubsub: PubSub) -> None:
        assert local_pubsub.setup(push_config={}) == local_pubsub.subscription()
        local_pubsub.subscriber.modify_push_config(subscription=local_pubsub.subscription(), push_config={})

    def test_the_rest_of_the_services_is_refused_by_name(self, local_pubsub: PubSub) -> None:
        subscription = local_pubsub.setup()
        with pytest.raises(MethodNotImplemented, match="does not implement SetIamPolicy"):
            local_pubsub.publisher.set_iam_policy(request={"resource": local_pubsub.topic()})
        with pytest.raises(MethodNotImplemented, match="does not push"):
            local_pubsub.subscriber.modify_push_config(
                subscription=subscription, push_config={"push_endpoint": "https://example.com"}
            )
        with pytest.raises(MethodNotImplemented, match="does not implement ListSchemas"):
            SchemaServiceClient(transport=SchemaServiceGrpcTransport(channel=local_pubsub.channel)).list_schemas(
                parent=local_pubsub.project
            )


class TestStrangeNames:
    @pytest.mark.parametrize(
        "name",
        ["projects/p/topics/" + "x" * 20_000, "projects/" + "p" * 20_000 + "/topics/topic"],
    )
    def test_a_long_one_gets_the_right_status(self, local_pubsub: PubSub, name: str) -> None:
        # Google's library would send the name in a header, too.
        ask = local_pubsub.channel.unary_unary("/google.pubsub.v1.Publisher/GetTopic")
        with pytest.raises(grpc.RpcError) as caught:
            ask(types.GetTopicRequest.serialize(types.GetTopicRequest(topic=name)), timeout=LIMIT_SECONDS)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "is not a valid name" in caught.value.details()

    def test_one_that_would_forge_a_line_of_the_log_is_refused(self, local_pubsub: PubSub) -> None:
        with pytest.raises(InvalidArgument, match="is not a valid name"):
            local_pubsub.publisher.create_topic(name="projects/p\nforged/topics/topic")


class TestServing:
    def test_health_is_reported(self, local_pubsub: PubSub) -> None:
        stub = health_pb2_grpc.HealthStub(local_pubsub.channel)
        for service in ("", "google.pubsub.v1.Publisher", "google.pubsub.v1.Subscriber"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=LIMIT_SECONDS)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

    def test_200_idle_streams_leave_the_broker_free_to_serve(self, local_pubsub: PubSub) -> None:
        names = [f"subscription{number}" for number in range(200)]
        local_pubsub.setup(*names)
        with ExitStack() as stack:
            streams = [stack.enter_context(local_pubsub.stream(local_pubsub.subscription(name))) for name in names]
            local_pubsub.publish("to all")
            assert [texts(stream.take()) for stream in streams] == [["to all"]] * 200

    def test_200_streams_share_one_subscription(self, local_pubsub: PubSub) -> None:
        subscription = local_pubsub.setup()
        with ExitStack() as stack:
            first = stack.enter_context(local_pubsub.stream(subscription))
            for _ in range(199):
                stack.enter_context(local_pubsub.stream(subscription, join=first))
            local_pubsub.publish(*(str(number) for number in range(1000)))
            assert len({each.message.message_id for each in first.take(1000)}) == 1000


class TestStartAndStop:
    def test_streams_and_pulls_end_with_unavailable_when_the_broker_stops(self, tmp_path: Path) -> None:
        with broker_process(tmp_path / "data") as process:
            server = PubSub(process.address)
            subscription = server.setup()
            with server.stream(subscription) as stream:
                pull = server.start_pull(server.setup("other"))
                server.publish("one")
                stream.take()
                assert pull.result().received_messages
                pull = server.start_pull(server.subscription("other"))
                settled(server, subscription)
                assert process.stop() == 0
                assert isinstance(stream.end(), ServiceUnavailable)
                assert pull.exception().code() is grpc.StatusCode.UNAVAILABLE
            server.close()
            assert "Traceback" not in process.output

    def test_a_broker_runs_in_a_thread_and_again_on_the_same_directory(self, tmp_path: Path) -> None:
        with Broker(tmp_path / "data") as broker:
            server = PubSub(broker.address)
            subscription = server.setup()
            server.publish("kept")
            project = server.project
            server.close()
        with Broker(tmp_path / "data") as broker:
            server = PubSub(broker.address)
            server.project = project
            assert texts(server.pull(subscription)) == ["kept"]
            server.close()
        broker.stop()
        with pytest.raises(BrokerError, match="not running"):
            assert broker.address

    def test_a_second_broker_on_the_same_directory_is_refused(self, tmp_path: Path) -> None:
        with Broker(tmp_path), pytest.raises(StartError, match="Another broker"):
            Broker(tmp_path).__enter__()
        with Broker(tmp_path) as again:
            assert again.address

    @pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.com", ""])
    def test_a_host_that_others_could_reach_is_refused(self, tmp_path: Path, host: str) -> None:
        with pytest.raises(StartError, match="loopback"):
            Broker(tmp_path, host=host).__enter__()
        assert list(tmp_path.iterdir()) == []

    def test_a_port_in_use_is_refused(self, tmp_path: Path, local_broker_address: str) -> None:
        port = int(local_broker_address.rpartition(":")[2])
        with pytest.raises(StartError, match=f"Cannot listen on 127.0.0.1:{port}"):
            Broker(tmp_path, port=port).__enter__()

    def test_the_command_says_in_one_line_what_is_wrong(self, tmp_path: Path) -> None:
        with Broker(tmp_path):
            command = [sys.executable, "-m", "transports.local", "--port=0", f"--data={tmp_path}"]
            result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 1
        assert result.stdout == ""
        assert (
            result.stderr
            == f"Another broker already uses the data directory {tmp_path}: stop it or choose another directory.\n"
        )

    def test_a_directory_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StartError, match="data directory"):
            Broker(tmp_path / "file" / "data").__enter__()

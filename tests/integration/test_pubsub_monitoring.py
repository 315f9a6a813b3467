"""Queue sizes from Google's Monitoring, against a server that speaks its protocol."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.cloud.monitoring_v3.types import ListTimeSeriesRequest, ListTimeSeriesResponse

from studio_celery.errors import BrokerError
from studio_celery.queues import Queue, queues_at_google
from transports.pubsub.options import Options
from transports.pubsub.server.calls import Calls
from transports.pubsub.server.sizes import Monitored, Size, Sizes
from transports.pubsub.server.url import Address

REQUEST, RESPONSE = ListTimeSeriesRequest.pb(), ListTimeSeriesResponse.pb()


class Monitoring(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Knows the newest values of some subscriptions, and an older one of each."""

    def __init__(self) -> None:
        self.values = {"celery-gpu": 7, "celery-cpu": 0}
        self.requests: list[Any] = []
        self.code: grpc.StatusCode | None = None

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        assert details.method == "/google.monitoring.v3.MetricService/ListTimeSeries"
        return grpc.unary_unary_rpc_method_handler(self._answer, REQUEST.FromString, RESPONSE.SerializeToString)

    def _answer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        if self.code is not None:
            context.abort(self.code, "said the test")
        asked = re.findall(r'subscription_id = "([^"]+)"', request.filter)
        if prefix := re.search(r'starts_with\("([^"]+)"\)', request.filter):
            # One to a page.
            found = sorted(name for name in self.values if name.startswith(prefix[1]) and name > request.page_token)
            asked = found[:1]
            return self._page(asked, asked[0] if found[1:] else "", age=request.filter.count("oldest_unacked") > 0)
        return self._page(asked, "", age=False)

    def _page(self, asked: list[str], next_token: str, *, age: bool) -> Any:
        return RESPONSE(
            next_page_token=next_token,
            time_series=[
                {
                    "resource": {"type": "pubsub_subscription", "labels": {"subscription_id": name}},
                    "points": [{"value": {"int64_value": value}} for value in (100 if age else self.values[name], 999)],
                }
                for name in asked
                if name in self.values
            ],
        )


@pytest.fixture
def monitoring() -> Monitoring:
    return Monitoring()


@pytest.fixture
def sizes(monitoring: Monitoring) -> Iterator[Sizes]:
    server = grpc.server(ThreadPoolExecutor(2), handlers=[monitoring])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Sizes(Calls(Address("project"), Options()), monitoring=channel)
    server.stop(None).wait()


def test_the_newest_value_of_each_subscription_is_given(sizes: Sizes, monitoring: Monitoring) -> None:
    assert sizes.of(["celery-gpu", "celery-cpu"]) == {"celery-gpu": Size(7), "celery-cpu": Size(0)}
    (request,) = monitoring.requests
    assert request.name == "projects/project"
    assert 'metric.type = "pubsub.googleapis.com/subscription/num_undelivered_messages"' in request.filter
    assert request.interval.end_time.seconds - request.interval.start_time.seconds == 600


def test_one_that_monitoring_does_not_know_is_left_out(sizes: Sizes) -> None:
    assert sizes.of(["celery-gpu", "celery-new"]) == {"celery-gpu": Size(7)}


def test_many_subscriptions_are_asked_for_in_several_calls(sizes: Sizes, monitoring: Monitoring) -> None:
    assert sizes.of([*(f"q{number}" for number in range(120)), "celery-gpu"]) == {"celery-gpu": Size(7)}
    assert len(monitoring.requests) == 3


def test_without_the_permission_sizes_are_not_known(sizes: Sizes, monitoring: Monitoring) -> None:
    monitoring.code = grpc.StatusCode.PERMISSION_DENIED
    assert sizes.of(["celery-gpu"]) is None


class TestAll:
    def test_those_of_a_prefix_are_given_whole_with_the_age_of_the_oldest(
        self, sizes: Sizes, monitoring: Monitoring
    ) -> None:
        monitoring.values["other"] = 9
        assert sizes.monitored("celery-") == {"celery-gpu": Monitored(7, 100.0), "celery-cpu": Monitored(0, None)}

    def test_they_are_queues_of_which_some_things_are_not_known(self, sizes: Sizes, monitoring: Monitoring) -> None:
        monitoring.values["celery-priority~1~gpu"] = 2
        assert queues_at_google(sizes, Address("project")) == [
            Queue("cpu", waiting=0, leased=None, oldest_age_seconds=None, consumers=None),
            Queue("gpu", waiting=9, leased=None, oldest_age_seconds=100.0, consumers=None),
        ]

    def test_without_the_permission_the_role_is_named(self, sizes: Sizes, monitoring: Monitoring) -> None:
        monitoring.code = grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(BrokerError, match="role Monitoring Viewer"):
            queues_at_google(sizes, Address("project"))

    def test_without_the_package_its_name_is_said(self, sizes: Sizes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "google.cloud.monitoring_v3.types", None)
        assert sizes.of(["celery-gpu"]) is None
        with pytest.raises(BrokerError, match=r"install studio-celery\[monitoring\]"):
            queues_at_google(sizes, Address("project"))

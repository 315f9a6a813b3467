"""How many messages wait in a subscription: the local broker and Google's Monitoring say it, Pub/Sub itself does not.

Google's figures need the package ``google-cloud-monitoring`` (the extra ``monitoring``) and the role Monitoring Viewer;
they are up to two minutes old.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transports.errors import ChannelFailed
from transports.pubsub.server.calls import Calls
from transports.pubsub.server.wire import credentials

logger = logging.getLogger(__name__)

#: The local broker's own method; it takes and gives a `google.protobuf.Struct`.
_STATISTICS = "/studio.broker.v1.Statistics/List"
_TIME_SERIES = "/google.monitoring.v3.MetricService/ListTimeSeries"
_MONITORING = "monitoring.googleapis.com:443"
_MONITORING_SCOPES = ("https://www.googleapis.com/auth/monitoring.read",)
_METRIC = "pubsub.googleapis.com/subscription/num_undelivered_messages"
_AGE_METRIC = "pubsub.googleapis.com/subscription/oldest_unacked_message_age"
#: Seconds that are looked back: a value a minute is taken, and shown two minutes later.
_WINDOW_SECONDS = 600
#: Most subscriptions asked for in one call: a filter has its limits.
_AT_A_TIME = 50


@dataclass(frozen=True)
class Size:
    """What is in a subscription."""

    #: Messages that are not acknowledged; on Google's servers with those that are leased.
    messages: int
    #: Who reads it; None: not known.
    consumers: int | None = None


@dataclass(frozen=True)
class Monitored:
    """What Monitoring said last of a subscription, up to two minutes ago."""

    #: Messages that are not acknowledged, with those that are leased.
    messages: int
    #: Seconds since the oldest of them was published; None: there is none, or it is not known.
    oldest_age_seconds: float | None


class Sizes:
    """Sizes of subscriptions of one project."""

    def __init__(self, calls: Calls, *, monitoring: Any = None) -> None:
        """Take the calls to Pub/Sub, and a gRPC channel to Monitoring if it is not to be Google's own."""
        self._calls = calls
        self._monitoring = monitoring

    def of(self, subscriptions: Iterable[str]) -> dict[str, Size] | None:
        """Return the sizes of subscriptions, by name; None: they cannot be known here."""
        names = list(subscriptions)
        try:
            found = self._from_broker() if self._calls.address.server else self._from_monitoring(names)
        except ChannelFailed as exc:
            logger.info("queue sizes are not known: %s", exc)
            return None
        return None if found is None else {name: found[name] for name in names if name in found}

    def monitored(self, prefix: str) -> dict[str, Monitored]:
        """Return what Monitoring knows of all subscriptions whose names begin with a prefix, by name.

        Raises:
            ImportError: The package ``google-cloud-monitoring`` is not installed.
            TransportError: Monitoring does not answer, or refuses.
        """
        some = f'resource.labels.subscription_id = starts_with("{prefix}")'
        ages = dict(self._newest(_AGE_METRIC, some))
        return {
            name: Monitored(messages, float(ages[name]) if messages and name in ages else None)
            for name, messages in self._newest(_METRIC, some)
        }

    def _from_broker(self) -> dict[str, Size]:
        from google.protobuf.json_format import MessageToDict
        from google.protobuf.struct_pb2 import Struct

        request = Struct()
        request.update({"project": self._calls.project})
        answer = self._ask(self._calls.wire().channel, _STATISTICS, request, Struct)
        return {
            # Who works on a message uses the queue, though his stream may be closed meanwhile.
            each["name"].rpartition("/")[2]: Size(int(each["waiting"]), int(each["consumers"] or each["leased"] > 0))
            for each in MessageToDict(answer).get("subscriptions", [])
        }

    def _from_monitoring(self, names: Sequence[str]) -> dict[str, Size] | None:
        found: dict[str, Size] = {}
        for start in range(0, len(names), _AT_A_TIME):
            anyone = " OR ".join(
                f'resource.labels.subscription_id = "{name}"' for name in names[start : start + _AT_A_TIME]
            )
            try:
                found.update({name: Size(messages) for name, messages in self._newest(_METRIC, anyone)})
            except ImportError:
                return None
        return found

    def _newest(self, metric: str, which: str) -> Iterator[tuple[str, int]]:
        """Yield the newest value of a metric for each subscription that a filter takes, page by page."""
        from google.cloud.monitoring_v3.types import ListTimeSeriesRequest, ListTimeSeriesResponse

        now = int(time.time())
        request = ListTimeSeriesRequest.pb()(
            name=f"projects/{self._calls.project}",
            filter=f'metric.type = "{metric}" AND ({which})',
            interval={"start_time": {"seconds": now - _WINDOW_SECONDS}, "end_time": {"seconds": now}},
        )
        while True:
            answer = self._ask(self._channel(), _TIME_SERIES, request, ListTimeSeriesResponse.pb())
            for series in answer.time_series:
                if series.points:  # the newest comes first
                    yield series.resource.labels["subscription_id"], series.points[0].value.int64_value
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    def _channel(self) -> Any:
        if self._monitoring is None:
            from google.cloud.monitoring_v3.services.metric_service.transports import MetricServiceGrpcTransport

            found, _ = credentials(self._calls.address, _MONITORING_SCOPES)
            self._monitoring = MetricServiceGrpcTransport.create_channel(_MONITORING, credentials=found)
        return self._monitoring

    def _ask(self, channel: Any, path: str, request: Any, answer: Any) -> Any:
        stub = channel.unary_unary(
            path, request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
        )
        with self._calls.guarded(path.rpartition("/")[2], path):
            return stub(request, timeout=self._calls.options.rpc_timeout_seconds)

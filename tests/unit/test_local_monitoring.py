"""The broker's numbers as data and as text for Prometheus."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from transports.local import QueueStatistics
from transports.local.access import Guard, Role, TokenFile
from transports.local.monitoring import exposition
from transports.local.monitoring.counters import Counters
from transports.local.monitoring.endpoint import MetricsPage

FULL = QueueStatistics("projects/p/subscriptions/gpu", "projects/p/topics/gpu-topic", 3, 2, 61.5, 4)
EMPTY = QueueStatistics("projects/p/subscriptions/cpu", "_deleted-topic_", 0, 0, None, 0)


class TestData:
    @pytest.mark.parametrize("statistics", [FULL, EMPTY])
    def test_it_survives_the_way_to_a_dictionary_and_back(self, statistics: QueueStatistics) -> None:
        assert QueueStatistics.from_dict(statistics.to_dict()) == statistics

    def test_numbers_that_came_as_floats_are_whole_again(self) -> None:
        data = {key: float(value) if isinstance(value, int) else value for key, value in FULL.to_dict().items()}
        assert str(QueueStatistics.from_dict(data).waiting) == "3"


class TestCounters:
    def test_a_consumer_counts_as_long_as_it_stays(self) -> None:
        counters = Counters()
        with counters.consuming("a"), counters.consuming("a"):
            assert counters.consumers["a"] == 2
        assert dict(counters.consumers) == {}


class TestText:
    def test_every_number_has_its_line(self) -> None:
        counters = Counters(published=7, delivered=6, acknowledged=5)
        counters.requests["Publish", "OK"] += 7
        lines = exposition.render([FULL, EMPTY], counters).splitlines()
        labels = '{project="p",subscription="gpu",topic="gpu-topic"}'
        for line in (
            f"studio_broker_waiting_messages{labels} 3",
            f"studio_broker_leased_messages{labels} 2",
            f"studio_broker_oldest_message_age_seconds{labels} 61.5",
            f"studio_broker_consumers{labels} 4",
            "studio_broker_published_messages_total 7",
            "studio_broker_delivered_messages_total 6",
            "studio_broker_acknowledged_messages_total 5",
            'studio_broker_requests_total{method="Publish",code="OK"} 7',
            "# TYPE studio_broker_requests_total counter",
        ):
            assert line in lines

    def test_an_empty_queue_has_no_oldest_message(self) -> None:
        text = exposition.render([EMPTY], Counters())
        assert 'waiting_messages{project="p",subscription="cpu"' in text
        assert "oldest_message_age_seconds{" not in text

    def test_large_counts_are_exact(self) -> None:
        text = exposition.render([], Counters(published=123_456_789_012))
        assert "studio_broker_published_messages_total 123456789012\n" in text


async def _at_once() -> None:
    return


class _Client:
    """Keeps what is written to it."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += data

    async def drain(self) -> None:
        return

    def close(self) -> None:
        return

    async def wait_closed(self) -> None:
        return


class TestPage:
    @pytest.fixture
    def file(self, tmp_path: Any) -> TokenFile:
        return TokenFile(tmp_path)

    def answer(self, file: TokenFile, request: str, *, required: bool = False) -> tuple[str, str]:
        page = MetricsPage(Guard(file, required), Counters(), lambda: [FULL, EMPTY], _at_once)
        head, _, body = page.answer(request.replace("\n", "\r\n").encode()).decode().partition("\r\n\r\n")
        return head.split("\r\n")[0].removeprefix("HTTP/1.1 "), body

    def test_it_has_what_was_answered_before(self, file: TokenFile) -> None:
        async def follow() -> None:
            await asyncio.sleep(0)
            found.append(FULL)

        async def main() -> None:
            reader = asyncio.StreamReader()
            reader.feed_data(b"GET /metrics HTTP/1.1\r\n\r\n")
            await MetricsPage(Guard(file, False), Counters(), lambda: found, follow).serve(
                reader, cast(asyncio.StreamWriter, client)
            )

        found: list[QueueStatistics] = []
        client = _Client()
        asyncio.run(main())
        assert client.written.count(b'subscription="gpu"') == 4

    @pytest.mark.parametrize("target", ["/metrics", "/metrics?x=y"])
    def test_it_is_served_where_it_is_looked_for(self, file: TokenFile, target: str) -> None:
        status, body = self.answer(file, f"GET {target} HTTP/1.1\nHost: x\n\n")
        assert (status, body.count('subscription="gpu"')) == ("200 OK", 4)

    @pytest.mark.parametrize(
        ("line", "status"),
        [
            ("GET / HTTP/1.1", "404 Not Found"),
            ("POST /metrics HTTP/1.1", "405 Method Not Allowed"),
            ("", "404 Not Found"),
            ("\x00\xff", "404 Not Found"),
        ],
    )
    def test_anything_else_is_refused(self, file: TokenFile, line: str, status: str) -> None:
        assert self.answer(file, f"{line}\n\n")[0] == status

    def test_a_head_request_has_no_body(self, file: TokenFile) -> None:
        assert self.answer(file, "HEAD /metrics HTTP/1.1\n\n") == ("200 OK", "")

    def test_where_tokens_are_wanted_a_viewers_is(self, file: TokenFile) -> None:
        viewer, publisher = file.create(Role.VIEWER, ["gpu"])[1], file.create(Role.PUBLISHER)[1]
        for secret, expected in [(viewer, "200 OK"), (publisher, "403 Forbidden"), ("sbt_x", "401 Unauthorized")]:
            request = f"GET /metrics HTTP/1.1\nAuthorization: Bearer {secret}\n\n"
            assert self.answer(file, request, required=True)[0] == expected
        assert self.answer(file, "GET /metrics HTTP/1.1\n\n", required=True)[0] == "401 Unauthorized"
        _, body = self.answer(file, f"GET /metrics HTTP/1.1\nAuthorization: Bearer {viewer}\n\n", required=True)
        assert 'subscription="cpu"' not in body

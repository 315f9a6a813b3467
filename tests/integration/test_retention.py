"""How long a queue keeps messages, as a worker of experiments finds it out, on both servers."""

from __future__ import annotations

from celery import Celery
from kombu import Queue
from pubsub_client import PubSub
from test_pubsub_bench import Broker

from studio_celery.submission import broker as submission

DAY = 86400.0


def test_the_server_is_asked_by_queue(pubsub: PubSub) -> None:
    with Broker(pubsub) as server:
        Queue("short")(server.connect(retention_seconds=600).channel()).declare()
        Queue("usual")(server.connect().channel()).declare()
        app = Celery("retention", broker=server.url, set_as_current=False)
        try:
            asked = submission.Broker(app, server.url, 10.0)
            assert asked.retention_seconds("short") == 600
            assert asked.retention_seconds("usual") in (7 * DAY, 31 * DAY)
        finally:
            app.close()

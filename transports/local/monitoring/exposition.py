"""The numbers as text in Prometheus' exposition format, version 0.0.4. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from transports.local.monitoring.counters import Counters
from transports.local.monitoring.queues import QueueStatistics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_Sample = tuple[Mapping[str, str], float]


def render(queues: Sequence[QueueStatistics], counters: Counters) -> str:
    """Return the page that Prometheus reads."""
    requests = [({"method": name, "code": code}, n) for (name, code), n in sorted(counters.requests.items())]
    ages = [each for each in queues if each.oldest_age_seconds is not None]
    families = [
        _family("waiting_messages", "gauge", "Messages ready for delivery.", _each(queues, "waiting")),
        _family("leased_messages", "gauge", "Messages that a consumer holds.", _each(queues, "leased")),
        _family(
            "oldest_message_age_seconds",
            "gauge",
            "Time since the oldest unacknowledged message was published.",
            _each(ages, "oldest_age_seconds"),
        ),
        _family("consumers", "gauge", "Open streams and waiting pulls.", _each(queues, "consumers")),
        _total("published_messages_total", "Messages that were stored.", counters.published),
        _total("delivered_messages_total", "Messages handed to consumers, each time.", counters.delivered),
        _total("acknowledged_messages_total", "Acknowledgements taken.", counters.acknowledged),
        _family("requests_total", "counter", "Requests and streams that have ended.", requests),
    ]
    return "".join(families)


def _each(queues: Iterable[QueueStatistics], field: str) -> list[_Sample]:
    return [(_labels(each), getattr(each, field)) for each in queues]


def _labels(queue: QueueStatistics) -> dict[str, str]:
    project, _, subscription = queue.name.removeprefix("projects/").partition("/subscriptions/")
    return {"project": project, "subscription": subscription, "topic": queue.topic.rpartition("/")[2]}


def _total(name: str, help: str, value: int) -> str:
    return _family(name, "counter", help, [({}, value)])


def _family(name: str, kind: str, help: str, samples: Iterable[_Sample]) -> str:
    name = f"studio_broker_{name}"
    lines = [f"# HELP {name} {help}", f"# TYPE {name} {kind}"]
    lines += [f"{name}{_braces(labels)} {value:.15g}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _braces(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

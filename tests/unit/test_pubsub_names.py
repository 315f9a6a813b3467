"""Names in Pub/Sub: a table, and the way back for whatever a queue may be called."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transports.errors import BadName
from transports.pubsub.topology.names import Kind, Names, Route

NAMES = Names("celery-")
LEGAL = re.compile(r"[A-Za-z][A-Za-z0-9\-_.~+%]{2,254}")


@pytest.mark.parametrize(
    ("queue", "route", "topic", "subscription"),
    [
        ("gpu", Route("", "gpu"), "celery-gpu", "celery-gpu"),
        ("gpu", Route("gpu", "gpu"), "celery-gpu", "celery-gpu"),
        ("gpu", Route("jobs", "gpu"), "celery-direct~jobs~gpu", "celery-direct~jobs~gpu~gpu"),
        ("gpu", Route("jobs", ""), "celery-direct~jobs~", "celery-direct~jobs~~gpu"),
        ("b", Route("a", "a"), "celery-a", "celery-direct~a~a~b"),
        ("b", Route("", "a"), "celery-a", "celery-direct~~a~b"),
        ("h1", Route("ev", kind=Kind.FANOUT), "celery-fanout~ev", "celery-fanout~ev~h1"),
        ("logs", Route("ev", kind=Kind.TOPIC), "celery-topic~ev", "celery-topic~ev~logs"),
        ("gpu", Route("", "gpu", step=3), "celery-priority~3~gpu", "celery-priority~3~gpu"),
        ("b", Route("a", "k", step=9), "celery-priority~9~direct~a~k", "celery-priority~9~direct~a~k~b"),
        ("priority", Route("", "priority"), "celery-priority", "celery-priority"),
        ("a/b c@d~e", Route("", "a/b c@d~e"), "celery-a%2Fb%20c%40d%7Ee", "celery-a%2Fb%20c%40d%7Ee"),
        ("100%", Route("", "100%"), "celery-100%25", "celery-100%25"),
        ("ü", Route("", "ü"), "celery-%C3%BC", "celery-%C3%BC"),
        ("a-b_c.d+e", Route("", "a-b_c.d+e"), "celery-a-b_c.d+e", "celery-a-b_c.d+e"),
    ],
)
def test_each_queue_and_route_has_its_name(queue: str, route: Route, topic: str, subscription: str) -> None:
    assert NAMES.topic(route) == topic
    assert NAMES.subscription(queue, route) == subscription


texts = st.text(min_size=1, max_size=6)


@given(texts, texts, texts)
def test_names_are_legal_and_lead_back(queue: str, exchange: str, key: str) -> None:
    direct = Route("", queue), Route("", queue, step=6), Route(exchange, key)
    for route in (*direct, Route(exchange, kind=Kind.FANOUT), Route(exchange, kind=Kind.TOPIC, step=1)):
        topic, subscription = NAMES.topic(route), NAMES.subscription(queue, route)
        assert LEGAL.fullmatch(topic)
        assert LEGAL.fullmatch(subscription)
        found = NAMES.route(topic)
        assert NAMES.topic(found) == topic
        assert found == route or (route.is_plain and found == Route("", route.key, step=route.step))
        assert NAMES.subscription(*NAMES.queue(subscription)) == subscription
        assert NAMES.queue(subscription)[0] == queue


@pytest.mark.parametrize(
    ("prefix", "queue", "said"),
    [
        ("celery-", "", "has no name"),
        ("celery-", "x" * 249, "256 characters"),
        ("celery-", "ü" * 42, "259 characters"),
        ("", "google", "reserves"),
        ("goog-", "x", "reserves"),
        ("", "9gpu", "begins with no letter"),
        ("", "ab", "too short"),
    ],
)
def test_what_cannot_be_named_is_refused_with_the_reason(prefix: str, queue: str, said: str) -> None:
    with pytest.raises(BadName, match=said):
        Names(prefix).topic(Route("", queue))


def test_the_longest_name_is_accepted() -> None:
    assert len(NAMES.topic(Route("", "x" * 248))) == 255


@pytest.mark.parametrize("name", ["other-gpu", "celery-headers~a~b", "celery-direct~a"])
def test_names_of_others_are_refused(name: str) -> None:
    with pytest.raises(BadName):
        NAMES.route(name)

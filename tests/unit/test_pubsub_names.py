"""Names in Pub/Sub: a table, and the way back for whatever a queue may be called."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transports.errors import BadName
from transports.pubsub.names import Names, Route

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
        ("h1", Route("ev", fanout=True), "celery-fanout~ev", "celery-fanout~ev~h1"),
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
    for route in (Route("", queue), Route(exchange, key), Route(exchange, fanout=True)):
        topic, subscription = NAMES.topic(route), NAMES.subscription(queue, route)
        assert LEGAL.fullmatch(topic)
        assert LEGAL.fullmatch(subscription)
        found = NAMES.route(topic)
        assert NAMES.topic(found) == topic
        assert found == route or (route.is_plain and found == Route("", route.key))
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


@pytest.mark.parametrize("name", ["other-gpu", "celery-topic~a~b", "celery-direct~a"])
def test_names_of_others_are_refused(name: str) -> None:
    with pytest.raises(BadName):
        NAMES.route(name)

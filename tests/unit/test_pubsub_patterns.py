"""Which routing keys a binding of a topic exchange matches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transports.pubsub.topology.patterns import matches

WORD = st.text("ab+(", min_size=1, max_size=3)
KEY = st.lists(WORD, min_size=1, max_size=5).map(".".join)


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("stock.usd.nyse", "stock.usd.nyse"),
        ("*.usd.*", "stock.usd.nyse"),
        ("#", ""),
        ("#", "a"),
        ("#", "a.b.c"),
        ("a.#", "a"),
        ("a.#", "a.b.c"),
        ("#.c", "c"),
        ("#.c", "a.b.c"),
        ("a.#.c", "a.c"),
        ("a.#.c", "a.b.b.c"),
        ("#.#", ""),
        ("*.#", "a.b"),
        ("", ""),
        ("a.*", "a."),
    ],
)
def test_a_pattern_matches_its_words(pattern: str, key: str) -> None:
    assert matches(pattern, key)


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("stock", "stocks"),
        ("stock", "stock.usd"),
        ("*", "a.b"),
        ("*.#", ""),
        ("a.*", "a"),
        ("a.*.c", "a.c"),
        ("a.*.c", "a.b.b.c"),
        ("a.#", "ab"),
        ("#.c", "ac"),
        ("a.b", "a+b"),
        ("a+", "aa"),
        (".*", "a"),
        ("a", "a\n"),
    ],
)
def test_a_pattern_matches_nothing_else(pattern: str, key: str) -> None:
    assert not matches(pattern, key)


@given(KEY)
def test_a_key_matches_itself_and_its_words_as_stars(key: str) -> None:
    words = key.split(".")
    assert matches(key, key)
    assert matches(".".join("*" * len(words)), key)
    assert not matches(".".join("*" * (len(words) + 1)), key)


@given(KEY, KEY)
def test_a_hash_stands_for_any_number_of_words(before: str, after: str) -> None:
    assert matches(f"{before}.#", f"{before}.{after}")
    assert matches(f"#.{after}", f"{before}.{after}")
    assert matches(f"{before}.#.{after}", f"{before}.{after}")
    assert not matches(f"{before}.#.{after}.end", f"{before}.{after}")

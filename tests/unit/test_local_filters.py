"""The filter language: what passes, what is refused, and that nothing else can happen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transports.local import filters
from transports.local.errors import InvalidArgumentError

MESSAGES = {
    1: {"lang": "en", "name": "com"},
    2: {"lang": "en", "name": "net"},
    3: {"lang": "jp", "name": "co"},
    4: {"lang": "jp"},
    5: {"name": "com", "a b": "x"},
    6: {},
}


@pytest.mark.parametrize(
    ("expression", "passing"),
    [
        ("", [1, 2, 3, 4, 5, 6]),
        ("attributes:name", [1, 2, 3, 5]),
        ("NOT attributes:name", [4, 6]),
        ("-attributes:name", [4, 6]),
        ("NOT NOT attributes:name", [1, 2, 3, 5]),
        ('attributes.name = "com"', [1, 5]),
        ('attributes.name="com"', [1, 5]),
        ('attributes.name != "com"', [2, 3, 4, 6]),
        ('hasPrefix(attributes.name, "co")', [1, 3, 5]),
        ('hasPrefix(attributes.name,"")', [1, 2, 3, 5]),
        ('attributes."a b" = "x"', [5]),
        ('attributes:"a b"', [5]),
        ('attributes:"a\\u0020b"', [5]),
        ('attributes:"a\\x20b"', [5]),
        ('attributes:"a\\040b"', [5]),
        ('attributes.lang = "en" AND attributes.name = "com"', [1]),
        ('attributes.lang = "jp" OR attributes.name = "com"', [1, 3, 4, 5]),
        ('(attributes.lang = "jp" AND attributes:name) OR attributes.name = "com"', [1, 3, 5]),
        ('attributes.lang = "jp" AND (NOT attributes:name)', [4]),
        ('NOT attributes:name AND attributes.lang = "jp"', [4]),
        ('NOT (attributes:name OR attributes.lang = "jp")', [6]),
        ("((attributes:lang))", [1, 2, 3, 4]),
        ("  attributes:lang\n AND attributes:name  ", [1, 2, 3]),
    ],
)
def test_an_expression_lets_pass_what_it_describes(expression: str, passing: list[int]) -> None:
    accepts = filters.parse(expression)
    assert [number for number, attributes in MESSAGES.items() if accepts(attributes)] == passing


@pytest.mark.parametrize(
    "expression",
    [
        " ",
        "name",
        "attributes",
        "attributes.name",
        "attributes:",
        "attributes:NOT",
        "Attributes:name",
        "attributes.name = com",
        "attributes.name = 'com'",
        'attributes.name = "com',
        'attributes.name > "com"',
        'attributes.name : "com"',
        "attributes:a attributes:b",
        "attributes:a and attributes:b",
        "attributes:a AND",
        "AND attributes:a",
        "(attributes:a",
        "attributes:a)",
        "attributes:a AND attributes:b OR attributes:c",
        "attributes:a OR attributes:b AND attributes:c",
        'hasprefix(attributes.a, "x")',
        'hasPrefix(attributes:a, "x")',
        "hasPrefix(attributes.a)",
        "NOTattributes:a",
        'attributes.\u00e4 = "x"',
        "attributes.1 = 1",
        "attributes:a # comment",
    ],
)
def test_what_is_not_of_the_language_is_refused(expression: str) -> None:
    with pytest.raises(InvalidArgumentError):
        filters.parse(expression)


def test_256_bytes_are_taken_and_257_are_not() -> None:
    filters.parse('attributes.a = "' + "x" * 239 + '"')
    with pytest.raises(InvalidArgumentError, match="256"):
        filters.parse('attributes.a = "' + "\u00e4" * 120 + '"')


@given(st.text(alphabet='attributes.:=!"()-, NOTANDRhPfx\\u0', max_size=60))
def test_whatever_is_written_is_read_or_refused(expression: str) -> None:
    try:
        accepts = filters.parse(expression)
    except InvalidArgumentError:
        return
    assert all(accepts(attributes) in (True, False) for attributes in MESSAGES.values())

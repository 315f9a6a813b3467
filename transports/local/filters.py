"""The filter language of subscriptions: which messages, by their attributes, a subscription takes.

    attributes:KEY                        the attribute is there
    attributes.KEY = "V"                  it is there and is V
    attributes.KEY != "V"                 it is something else, or not there
    hasPrefix(attributes.KEY, "V")        it is there and begins with V
    NOT x, -x, x AND y, x OR y, (x)       AND beside OR needs parentheses

A key that is no plain word stands in quotes. Case counts everywhere, and the operators are written in capitals.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from transports.local.errors import InvalidArgumentError

#: Most bytes of an expression.
MAX_FILTER_BYTES = 256

#: Says by its attributes whether a message passes.
Filter = Callable[[Mapping[str, str]], bool]

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<word>[A-Za-z_][A-Za-z0-9_\-]*)|(?P<sign>!=|[=:.,()\-]))""", re.DOTALL
)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[0-7]{1,3}|.)", re.DOTALL)
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_OPERATORS = frozenset({"AND", "OR", "NOT"})


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str


def parse(expression: str) -> Filter:
    """Read an expression; an empty one takes everything.

    Raises:
        InvalidArgumentError: It is too long, or not of the language.
    """
    if len(expression.encode()) > MAX_FILTER_BYTES:
        raise InvalidArgumentError(f"A filter has at most {MAX_FILTER_BYTES} bytes.")
    if not expression:
        return lambda attributes: True
    parser = _Parser(expression)
    found = parser.combination()
    parser.expect_end()
    return found


class _Parser:
    """Reads tokens from left to right, one method for each rule of the grammar."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens = self._split()
        self._next = 0

    def combination(self) -> Filter:
        """``x``, ``x AND y AND z``, or ``x OR y OR z``."""
        parts, operator = [self._negation()], ""
        while (word := self._peek().text) in ("AND", "OR") and self._peek().kind == "word":
            if operator and word != operator:
                raise self._error("AND beside OR needs parentheses")
            operator = word
            self._next += 1
            parts.append(self._negation())
        if operator == "OR":
            return lambda attributes: any(part(attributes) for part in parts)
        return lambda attributes: all(part(attributes) for part in parts)

    def expect_end(self) -> None:
        if self._peek().kind != "end":
            raise self._error(f"{self._peek().text!r} was not expected")

    def _negation(self) -> Filter:
        if self._peek() in (_Token("word", "NOT"), _Token("sign", "-")):
            self._next += 1
            negated = self._negation()
            return lambda attributes: not negated(attributes)
        if self._peek() == _Token("sign", "("):
            self._next += 1
            inner = self.combination()
            self._expect("sign", ")")
            return inner
        return self._comparison()

    def _comparison(self) -> Filter:
        if self._peek() == _Token("word", "hasPrefix"):
            return self._prefix()
        self._expect("word", "attributes")
        sign = self._take("sign")
        if sign == ":":
            key = self._key()
            return lambda attributes: key in attributes
        if sign != ".":
            raise self._error("after 'attributes' comes ':' or '.'")
        key, operator = self._key(), self._take("sign")
        if operator not in ("=", "!="):
            raise self._error("an attribute is compared with = or !=")
        value = self._string()
        if operator == "=":
            return lambda attributes: attributes.get(key) == value
        return lambda attributes: attributes.get(key) != value

    def _prefix(self) -> Filter:
        self._next += 1
        self._expect("sign", "(")
        self._expect("word", "attributes")
        self._expect("sign", ".")
        key = self._key()
        self._expect("sign", ",")
        prefix = self._string()
        self._expect("sign", ")")
        return lambda attributes: key in attributes and attributes[key].startswith(prefix)

    def _key(self) -> str:
        token = self._peek()
        if token.kind == "string":
            return self._string()
        if token.kind != "word" or token.text in _OPERATORS:
            raise self._error("an attribute's key is missing")
        self._next += 1
        return token.text

    def _string(self) -> str:
        return _ESCAPE.sub(_unescape, self._take("string")[1:-1])

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, kind: str) -> str:
        token = self._peek()
        if token.kind != kind:
            raise self._error(f"a {kind} is missing before {token.text!r}" if token.text else f"a {kind} is missing")
        self._next += 1
        return token.text

    def _expect(self, kind: str, text: str) -> None:
        if self._take(kind) != text:
            raise self._error(f"{text!r} is missing")

    def _split(self) -> list[_Token]:
        tokens, rest = [], self._expression.rstrip()
        position = 0
        while position < len(rest):
            found = _TOKEN.match(rest, position)
            if found is None or found.lastgroup is None:
                raise self._error(f"{rest[position:].strip()[:20]!r} is not understood")
            tokens.append(_Token(found.lastgroup, found.group(found.lastgroup)))
            position = found.end()
        return [*tokens, _Token("end", "")]

    def _error(self, reason: str) -> InvalidArgumentError:
        return InvalidArgumentError(f"The filter {self._expression!r} is not valid: {reason}.")


def _unescape(found: re.Match[str]) -> str:
    code = found.group(1)
    if code[0] in "ux" and len(code) > 1:
        return chr(int(code[1:], 16))
    if code[0] in "01234567":
        return chr(int(code, 8))
    return _CONTROLS.get(code, code)

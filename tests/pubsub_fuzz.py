"""Requests that no client would make: random bytes, and messages with random fields, bits and ends; for tests.

All of it comes from one generator, so that a seed gives the same requests again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

#: Whole numbers at and beyond the edges of what fields may hold.
NUMBERS = (0, 1, -1, 7, 10, 600, 601, 1000, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))
#: Messages within messages, at most.
_DEPTH = 4


class Fuzzer:
    """Makes requests; ``sense`` has values that mean something to the server, by the name of their field."""

    def __init__(self, seed: int, sense: Mapping[str, Sequence[Any]]) -> None:
        self._random = random.Random(seed)
        self._sense = sense
        self._texts = [value for values in sense.values() for value in values if isinstance(value, str)]
        #: How much of a request has no sense, from 0 to 1.
        self._wildness = 1.0

    def requests(self, request_class: Any, count: int) -> Iterator[bytes]:
        """Give so many requests for a method that takes messages of a class."""
        makers: list[Callable[[], bytes]] = [
            self._noise,
            lambda: self._filled(request_class),
            lambda: self._bent(self._filled(request_class)),
        ]
        for _ in range(count):
            yield self._random.choice(makers)()

    def _noise(self) -> bytes:
        return self._random.randbytes(self._random.choice((0, 1, 5, 50, 500)))

    def _bent(self, data: bytes) -> bytes:
        """Change some bytes, or cut the end off."""
        bent = bytearray(data)
        for _ in range(self._random.randint(1, 4)):
            if bent:
                bent[self._random.randrange(len(bent))] = self._random.randrange(256)
        return bytes(bent[: self._random.randint(0, len(bent))] if self._random.random() < 0.3 else bent)

    def _filled(self, request_class: Any) -> bytes:
        message = request_class()
        self._wildness = self._random.choice((0.02, 0.1, 0.5, 1.0))
        self._fill(message, _DEPTH)
        data: bytes = message.SerializeToString()
        return data

    def _fill(self, message: Any, depth: int) -> None:
        for field in message.DESCRIPTOR.fields:
            if self._random.random() < self._likelihood(field):
                self._fill_field(message, field, depth)

    def _likelihood(self, field: Any) -> float:
        """Return how likely a request has a field: one whose values have a sense, mostly."""
        if self._wildness == 1:
            return 0.5
        if field.name in self._sense:
            return 0.95
        return 0.4 if field.message_type is not None else self._wildness / 2

    def _fill_field(self, message: Any, field: Any, depth: int) -> None:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            self._fill_map(getattr(message, field.name), field, depth)
        elif field.message_type is not None:
            self._fill_message(message, field, depth)
        elif field.is_repeated:
            getattr(message, field.name).extend(self._value(field) for _ in range(self._random.choice((0, 1, 3, 20))))
        else:
            setattr(message, field.name, self._value(field))

    def _fill_message(self, message: Any, field: Any, depth: int) -> None:
        if depth == 0:
            return
        if not field.is_repeated:
            getattr(message, field.name).SetInParent()
            self._fill(getattr(message, field.name), depth - 1)
            return
        for _ in range(self._random.choice((0, 1, 3))):
            self._fill(getattr(message, field.name).add(), depth - 1)

    def _fill_map(self, mapping: Any, field: Any, depth: int) -> None:
        key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
        if value.message_type is None:
            for _ in range(self._random.choice((0, 1, 3))):
                mapping[self._value(key)] = self._value(value)
        elif depth:
            self._fill(mapping[self._value(key)], depth - 1)

    def _value(self, field: Any) -> Any:
        if field.name in self._sense and self._random.random() > self._wildness:
            return self._random.choice(self._sense[field.name])
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING:
                return self._random.randbytes(9) if field.type == FieldDescriptor.TYPE_BYTES else self._text()
            case FieldDescriptor.CPPTYPE_BOOL:
                return self._random.random() < 0.5
            case FieldDescriptor.CPPTYPE_ENUM:
                return self._random.choice(field.enum_type.values).number
            case FieldDescriptor.CPPTYPE_INT32:
                return max(min(self._random.choice(NUMBERS), 2**31 - 1), -(2**31))
            case FieldDescriptor.CPPTYPE_UINT32 | FieldDescriptor.CPPTYPE_UINT64:
                return min(abs(self._random.choice(NUMBERS)), 2**32 - 1)
            case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
                return self._random.choice((0.0, -1.5, 1e308, float("inf"), float("nan")))
        return self._random.choice(NUMBERS)

    def _text(self) -> str:
        strange = ("", "x", "\x00", "é" * 300, "projects/", "projects/p/topics/", "1.2.3", "a" * 5000, "%s%n", "../..")
        return self._random.choice([*self._texts, *strange])

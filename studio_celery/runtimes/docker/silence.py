"""An engine's silence, told at once to all who waited while one asked: by itself each would wait as long again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from studio_celery.errors import EngineUnavailable


class Silence:
    """What the last question came to, if the engine did not answer it. Its owner sees to it that one asks at a time."""

    def __init__(self, valid_seconds: float = 0.0) -> None:
        """`valid_seconds`: how long afterwards others are told so without asking, besides those who waited already."""
        self._valid_seconds = valid_seconds
        self._text: str | None = None
        self._until = 0.0

    def tell(self, since: float) -> None:
        """Raise the `EngineUnavailable` of another for who has wanted to know `since` then (`time.monotonic()`)."""
        if self._text is not None and since < self._until:
            raise EngineUnavailable(self._text)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask, and remember if there was no answer."""
        try:
            yield
        except EngineUnavailable as exc:
            self._text, self._until = str(exc), time.monotonic() + self._valid_seconds
            raise
        self._text = None

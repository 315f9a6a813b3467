"""Lists in pages: a token is the last name of the page before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transports.local.errors import InvalidArgumentError
from transports.local.wire import Message

#: Names on one page, at most and by default.
MAX_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Page:
    """Some names, and the token of the page after; empty on the last."""

    names: Sequence[str]
    next_token: str


def page(names: Sequence[str], request: Message) -> Page:
    """Cut the page that a list request asks for out of sorted names."""
    if request.page_size < 0:
        raise InvalidArgumentError(f"The page size must not be negative: {request.page_size}.")
    size = min(request.page_size or MAX_PAGE, MAX_PAGE)
    rest = [name for name in names if name > request.page_token]
    return Page(rest[:size], rest[size - 1] if len(rest) > size else "")

"""Which routing keys a binding of a topic exchange matches. Pure.

Words are separated by dots; ``*`` stands for one word, ``#`` for any number of them, also none. What is
empty has no words.
"""

from __future__ import annotations

import re
from functools import lru_cache


def matches(pattern: str, routing_key: str) -> bool:
    """Say whether a message with this routing key goes to a queue that is bound with this pattern."""
    return _compiled(pattern).fullmatch(f".{routing_key}" if routing_key else "") is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    # Each word is matched together with the dot before it, so that `#` may stand for nothing at all.
    words = {"*": r"\.[^.]*", "#": r"(?:\.[^.]*)*"}
    return re.compile("".join(words.get(word, r"\." + re.escape(word)) for word in pattern.split(".") if pattern))

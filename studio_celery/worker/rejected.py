"""Messages that nobody here can use: kept in the store, with the reason, where a person can look at them."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping
from typing import Any

from studio_celery.store import Store

#: Characters of a name from a message that are taken into a key.
NAME_MAX = 120

#: What could lead elsewhere, or nowhere, in a key: all but these, and dots in front.
_UNSAFE = re.compile(r"[^0-9A-Za-z._-]|^\.+")


def set_aside(store: Store, queue: Any, message_id: Any, facts: Mapping[str, Any]) -> None:
    """Keep `facts`, `reason` among them, as `rejected/<queue>/<message id>.json`; `StoreError` if that cannot be.

    Both names may come from a message of anybody's: what could lead elsewhere in the store is replaced, and a part of
    its digest keeps two such names apart.
    """
    store.reject(_name(queue) or "unknown", _name(message_id) or str(uuid.uuid4()), facts)


def _name(value: Any) -> str:
    """Text that is one component of a key, empty if there is none."""
    text = value if isinstance(value, str) else ""
    plain = _UNSAFE.sub("_", text)[:NAME_MAX]
    if plain == text:
        return text
    return f"{plain}-{hashlib.sha256(text.encode('utf-8', 'backslashreplace')).hexdigest()[:8]}"

"""Where Celery's keys are kept in the store. Ids are whatever somebody chose, so they are taken as text only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from urllib.parse import quote

#: Folder of the store for all that is Celery's.
ROOT = "celery"

#: Longest name, encoded, that is kept as it is, in characters: file systems end at 255, temporary files add 41.
LONGEST = 200


def component(name: str) -> str:
    """One path component for an id; ids of ordinary length and letters look as they are."""
    encoded = quote(name.encode("utf-8", "surrogatepass"), safe="")
    if len(encoded) > LONGEST:
        return f"{encoded[:100]}~{hashlib.sha256(encoded.encode()).hexdigest()}"
    # `.` and `..` would lead elsewhere.
    return encoded.replace(".", "%2E") if not encoded.strip(".") else encoded


def path(key: str, prefixes: Iterable[str]) -> str:
    """The store's key for one of Celery's, which begins with one of `prefixes`."""
    for prefix in prefixes:
        if key.startswith(prefix):
            return f"{ROOT}/{prefix.rstrip('/')}/{component(key.removeprefix(prefix))}"
    return f"{ROOT}/{component(key)}"

"""Celery's results in files, each there as a whole or not at all: its own backend shows readers half of one.

Nor does anything replace a success, which Celery looks for and forgets before it writes: a child that says late that it
tried again would hide what the next try, in another child, has stored.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from pathlib import Path
from typing import Any

from celery import states
from celery.backends.filesystem import FilesystemBackend
from kombu.utils.encoding import ensure_bytes


class WholeFiles(FilesystemBackend):
    """As a URL: ``celery_results:WholeFiles+file:///folder``."""

    def set(self, key: Any, value: Any) -> None:
        path = Path(os.fsdecode(self._filename(key)))
        draft = path.with_name(f"draft-{uuid.uuid4().hex}")
        draft.write_bytes(ensure_bytes(value))
        with path.with_name("lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_success(path):
                draft.unlink()
            else:
                draft.replace(path)


def _is_success(path: Path) -> bool:
    stored = json.loads(path.read_bytes()) if path.exists() else {}
    return isinstance(stored, dict) and stored.get("status") == states.SUCCESS

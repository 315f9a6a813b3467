"""Celery's results in files, each there as a whole or not at all: its own backend shows readers half of one."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from celery.backends.filesystem import FilesystemBackend
from kombu.utils.encoding import ensure_bytes


class WholeFiles(FilesystemBackend):
    """As a URL: ``celery_results:WholeFiles+file:///folder``."""

    def set(self, key: Any, value: Any) -> None:
        path = Path(os.fsdecode(self._filename(key)))
        draft = path.with_name(f"draft-{uuid.uuid4().hex}")
        draft.write_bytes(ensure_bytes(value))
        draft.replace(path)

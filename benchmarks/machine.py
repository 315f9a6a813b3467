"""On what machine figures were made."""

from __future__ import annotations

import os
import platform


def described() -> str:
    """Return cores, system and Python in a phrase."""
    return f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"

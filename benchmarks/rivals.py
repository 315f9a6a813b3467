"""The packages that only the rivals need: kombu's `gcpubsub` imports Cloud Monitoring, Redis needs its client.

They are installed once, without what they depend on, into a directory of their own, which the processes of the
benchmark have on their path. So every contender runs on the very same Celery, kombu and grpcio: those of the
environment that runs the benchmark, which stays as it is.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: Ignored by git; `make clean` removes it.
FOLDER = Path(__file__).parents[1] / "build" / "benchmark" / "rivals"
_PACKAGES = ("google-cloud-monitoring>=2.32", "redis>=8.1")


def install() -> Path:
    """Install what is missing; return the directory."""
    if not (FOLDER / "redis").is_dir() or not (FOLDER / "google" / "cloud" / "monitoring_v3").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(FOLDER), *_PACKAGES]
        subprocess.run(command, check=True)
    return FOLDER

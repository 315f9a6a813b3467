"""What is taken from the tests: studios of real processes, Docker's engine and image, Google's emulator."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from docker_engine import need_engine, need_image
from processes import Studio
from pubsub_servers import emulator
from studio import TWENTIETH, wait_for

__all__ = ["TWENTIETH", "Studio", "emulator", "need_engine", "need_image", "wait_for"]

"""Whether this host is going down: a script that is killed then was not at fault.

systemd says so itself ("stopping" from its start of shutdown on); where it cannot be asked, `/run/nologin` tells that
nobody may log in any more, which both systemd and the shutdown of older systems make first.
"""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

logger = logging.getLogger(__name__)

#: Where the facts are.
RUN = Path("/run")

#: How long systemd may take to answer, seconds.
ANSWER_SECONDS = 2.0


def going_down(run: Path = RUN) -> bool:
    """Whether it is; asks systemd, which takes some milliseconds."""
    return closes(run) or ((run / "systemd" / "system").is_dir() and _state_of_systemd() == "stopping")


def closes(run: Path = RUN) -> bool:
    """Whether it lets nobody log in any more; costs nothing."""
    return (run / "nologin").exists()


def _state_of_systemd() -> str:
    try:
        done = subprocess.run(
            ["systemctl", "is-system-running"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        logger.debug("systemd cannot be asked: %s", exc)
        return ""
    return done.stdout.strip()

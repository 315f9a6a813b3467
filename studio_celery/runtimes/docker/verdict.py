"""What the engine's words mean: how a container ended, why one cannot be started. Pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from typing import Any

from studio_celery.errors import EngineUnavailable, RuntimeFailure
from studio_celery.runtimes.contract import Exit
from studio_celery.runtimes.directory import Ending
from studio_celery.runtimes.docker.engine import Refused

#: States of a container in which its processes are there.
ALIVE = ("running", "paused", "restarting")

#: Exit codes of a container whose first process was killed by SIGKILL or SIGTERM.
KILLED = (128 + signal.SIGKILL, 128 + signal.SIGTERM)


def alive(facts: Mapping[str, Any]) -> bool:
    """Whether a container's processes are there."""
    return facts["State"]["Status"] in ALIVE


def judge(
    facts: Mapping[str, Any], ending: Ending | None, engine_run: str | None, *, host_goes_down: bool = False
) -> Exit:
    """How a container that is not alive ended: lost if it went down with engine or host, else the script's own end."""
    state = facts["State"]
    if state["Status"] == "created":
        return Exit(lost="the container was never started")
    if state["Status"] == "removing" and (ending is None or ending.interrupted):
        return Exit(lost="the container was removed")  # it was alive then, and the engine killed it for that
    if ending is not None and not ending.interrupted:
        return ending.exit
    started_under = facts["Config"]["Labels"].get("studio.engine-run")
    if engine_run is not None and started_under and engine_run != started_under:
        return Exit(lost="the Docker engine or the host was restarted")
    if state.get("OOMKilled") and (ending is None or ending.exit.signal == signal.SIGKILL):
        return Exit(signal=signal.SIGKILL, out_of_memory=True)
    code = state["ExitCode"]
    if host_goes_down and (ending is not None or code in KILLED):
        return Exit(lost="the host is going down")
    if ending is not None:
        return ending.exit
    return Exit(signal=code - 128) if code > 128 else Exit(exit_code=code)


def killed(exit: Exit, ending: Ending | None) -> bool:
    """Whether a script was ended from outside, as far as can be told: by a signal to its shim, or to all."""
    return exit.signal in (signal.SIGKILL, signal.SIGTERM) if ending is None else ending.interrupted


def start_failure(error: RuntimeFailure) -> RuntimeFailure:
    """A clear sentence for what Docker words badly."""
    if not isinstance(error, Refused):
        return error
    text = error.explanation
    if "could not select device driver" in text:
        return EngineUnavailable(
            "Docker cannot give cards to containers here: install the NVIDIA container toolkit and restart Docker."
        )
    if found := re.search(r"nvidia-container-cli: (.+)", text):
        return EngineUnavailable(f"The NVIDIA driver does not give the cards: {found[1].strip().rstrip('.')}.")
    if "bind source path does not exist" in text:
        return EngineUnavailable(
            f"The Docker engine does not see the worker's files ({text}): STUDIO_HOME must be at one path for both."
        )
    return error

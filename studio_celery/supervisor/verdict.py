"""What the end of a script amounts to: a journal entry with a reason that a person can act on. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from studio_celery.experiment import Experiment
from studio_celery.journal import RETRY, Kind, State
from studio_celery.runtimes.contract import Exit
from studio_celery.units import format_bytes, format_duration


@dataclass(frozen=True)
class Verdict:
    """The entry that the owner appends."""

    kind: Kind
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def ends(self) -> bool:
        """Whether nothing follows, so that artifacts are kept."""
        return self.kind not in (Kind.LOST, Kind.RELEASED)


def released(release_class: str, reason: str) -> Verdict:
    """Given back, for no fault of the script's."""
    return Verdict(Kind.RELEASED, {"class": release_class, "reason": reason})


def describe(exit: Exit, experiment: Experiment) -> str:
    """How the script ended, in words; empty for exit code 0."""
    if exit.out_of_memory:
        limit = experiment.resources.memory_bytes
        return f"out of memory (limit {format_bytes(limit)})" if limit else "out of memory"
    if exit.signal is not None:
        return f"killed by signal {exit.signal}"
    return f"exit code {exit.exit_code}" if exit.exit_code else ""


def judge(exit: Exit, state: State, *, ran_too_long: bool, lost_cards: tuple[str, ...] = ()) -> Verdict:
    """The entry for an attempt that ended; `state` is the one before it: a stop that it knows of was first.

    `lost_cards` are those of the attempt that the driver has lost: a script that fails without them is not at fault.
    """
    experiment = state.experiment
    assert experiment is not None
    code = exit.exit_code if exit.exit_code is not None else (128 + exit.signal if exit.signal else None)
    if state.stop_requested_by:
        return Verdict(Kind.STOPPED, {"reason": f"stopped by {state.stop_requested_by}", "exit_code": code})
    if ran_too_long:
        limit = format_duration(experiment.max_duration_seconds or 0)
        return Verdict(Kind.FAILED, {"reason": f"ran past --max-duration {limit}", "exit_code": code})
    if exit.lost:
        attempt = len(state.attempts)
        return Verdict(Kind.LOST, {"attempt": attempt, "reason": f"worker lost: {exit.lost}"})
    reason = describe(exit, experiment)
    if not reason:
        return Verdict(Kind.FINISHED, {"exit_code": 0, "reason": ""})
    if lost_cards and not exit.out_of_memory:
        return Verdict(Kind.RELEASED, {"class": "card", "reason": f"card lost: {', '.join(lost_cards)}"})
    if state.script_failures < experiment.retries:
        return Verdict(Kind.RELEASED, {"class": RETRY, "reason": reason, "exit_code": code})
    return Verdict(Kind.FAILED, {"reason": reason, "exit_code": code})

"""The measurements of workers that look after attempts."""

from supervision.crowds import crowds
from supervision.idling import idling
from supervision.starting import starting

#: In the order in which they run.
ALL = {"start": starting, "idle": idling, "crowd": crowds}

__all__ = ["ALL"]

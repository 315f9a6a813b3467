"""Errors of studio_celery: one root, and each text is the sentence that a person reads (cause, then next step)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class StudioError(Exception):
    """Something that studio_celery was asked for cannot be done; the text says why and what to do next."""


class UsageError(StudioError):
    """What was asked for is wrong in itself; asking again unchanged cannot succeed."""


class SettingsError(UsageError):
    """A setting has a value that cannot be used."""


class WorkspaceError(UsageError):
    """A directory cannot be captured or restored."""


class StoreError(StudioError):
    """The store cannot be read or written."""


class Unreadable(StoreError):
    """The store holds what is no journal: of one experiment, while the others can be read."""


class StoreRefusal(StoreError):
    """The store can never hold this, whoever asks and whenever: too long a name, or too large."""


class MessageLost(StoreError):
    """The store has no message of an experiment that can be sent again."""


class BrokerError(StudioError):
    """The broker does not answer, or refuses."""


class MayNotPublish(BrokerError):
    """The broker answers, and these credentials lack a permission for publishing."""


class CannotRequeue(StudioError):
    """An experiment has ended, or was never queued: its message is not sent again."""


class UnknownExperiment(UsageError):
    """No experiment, or more than one, fits the given id, prefix or name."""


class RuntimeFailure(StudioError):
    """An attempt cannot be prepared or started; `release_class` says whose fault it is.

    `release_class` is one of `engine`, `environment`, `disk`, `store`, `internal`: not the script's fault, so that
    another worker may try. `None` means that no other worker could do better: the experiment fails.
    """

    release_class: str | None = "engine"


class EngineUnavailable(RuntimeFailure):
    """The container engine does not answer."""


class ImageNotFound(RuntimeFailure):
    """The image does not exist, here or where it would be pulled from."""

    release_class = None


class EnvironmentFailed(RuntimeFailure):
    """The requirements cannot be installed."""

    release_class = None


class IndexUnavailable(RuntimeFailure):
    """The package index does not answer."""

    release_class = "environment"


class ExperimentFailed(StudioError):
    """An experiment ended, and not well. Survives serialisation: it is rebuilt from its four arguments."""

    def __init__(
        self, id: str, reason: str, exit_code: int | None = None, record: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(id, reason, exit_code, record)
        self.id = id
        self.reason = reason
        self.exit_code = exit_code
        self.record = record

    def __str__(self) -> str:
        return f"experiment {self.id}: {self.reason}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, {self.reason!r}, {self.exit_code!r})"

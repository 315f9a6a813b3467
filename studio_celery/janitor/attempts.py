"""Directories of attempts that nobody looks after any more: `STUDIO_HOME/run/<experiment>/<attempt>`.

One goes if the latest owner of its attempt has certainly ended, or is this very process and has not the experiment in
hand, and if the runtime finds nothing of the attempt. An owner that has ended starts nothing more, so the runtime is
asked after the owners. What the runtime finds is not cleared away here but taken over or stopped, see
`supervisor.takeover`; an owner that lives clears away by itself.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from studio_celery.errors import StudioError
from studio_celery.journal import State
from studio_celery.runtimes import Runtime, directory
from studio_celery.store import Store
from studio_celery.supervisor.charge import Charge
from studio_celery.supervisor.identity import Identity

logger = logging.getLogger(__name__)

#: What an experiment's directory is called; `run` has others, which are not attempts'.
_EXPERIMENT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Found:
    """An attempt's directory, and what the journal says."""

    path: Path
    state: State

    @property
    def number(self) -> int:
        """Number of the attempt."""
        return int(self.path.name)

    @property
    def key(self) -> tuple[str, int]:
        """What the runtime's handles are known by."""
        return self.path.parent.name, self.number


class Leftovers:
    """The directories of one `STUDIO_HOME`."""

    def __init__(self, store: Store, runtime: Runtime, home: Path, identity: Identity, charge: Charge) -> None:
        self._store = store
        self._runtime = runtime
        self._run = home / "run"
        self._identity = identity
        self._charge = charge

    def clear(self) -> None:
        """Remove what is nobody's; `RuntimeFailure` if it cannot be told what runs."""
        site = self._runtime.site()
        idle = [found for found in self._found() if self._is_nobodys(found) and _site_is(found.path, site)]
        held = {(handle.experiment_id, handle.attempt) for handle in self._runtime.find()}
        for found in idle:
            if found.key not in held:
                _remove(found.path)
        self._remove_empty()

    def owners(self) -> set[str]:
        """Ids of workers that somebody may still have to know to have ended: of what is left here."""
        names = {handle.worker for handle in self._runtime.find()}
        for found in self._found():
            if found.number <= len(found.state.attempts):
                names.add(found.state.attempts[found.number - 1].worker)
        return names

    def _found(self) -> Iterator[Found]:
        for folder in self._experiments():
            numbers = [path for path in folder.iterdir() if path.name.isdigit() and _is_directory(path)]
            state = self._state(folder.name) if numbers else None
            if state is not None:
                yield from (Found(path, state) for path in numbers)

    def _experiments(self) -> Iterator[Path]:
        for path in sorted(self._run.iterdir()):
            if _EXPERIMENT.fullmatch(path.name) and _is_directory(path):
                yield path

    def _state(self, experiment_id: str) -> State | None:
        """None if it cannot be told whose it is: unknown here, as when another store was used, or newer than we."""
        try:
            state = self._store.journal(experiment_id).refresh()
        except StudioError as exc:
            logger.warning("What is here of experiment %s stays: %s", experiment_id, exc)
            return None
        return state if state.experiment is not None else None

    def _is_nobodys(self, found: Found) -> bool:
        experiment_id, number = found.key
        if number > len(found.state.attempts) or experiment_id in self._charge:
            return False
        owner = found.state.attempts[number - 1]
        return owner.worker == self._identity.id or self._identity.is_gone(owner.worker, owner.host)

    def _remove_empty(self) -> None:
        """Remove directories of experiments that have ended and left nothing: no attempt comes any more."""
        for folder in self._experiments():
            if not any(folder.iterdir()) and (state := self._state(folder.name)) and state.status.terminal:
                try:
                    folder.rmdir()
                except OSError as exc:
                    logger.debug("%s stays: %s", folder, exc.strerror)


def _site_is(path: Path, site: str) -> bool:
    """Whether the runtime's `find` can tell that nothing of it lives."""
    return directory.site_of(path) in (None, site)


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove(path: Path) -> None:
    logger.info("%s is nobody's any more: removed.", path)
    try:
        directory.remove(path)
    except OSError as exc:
        logger.warning("%s stays behind: %s.", path, exc.strerror)

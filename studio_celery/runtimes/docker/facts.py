"""What an engine says of itself and its host. It is asked once for each of the engine's runs: asking takes it long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from studio_celery.runtimes.docker.engine import Engine


@dataclass(frozen=True)
class Facts:
    """About one run of an engine, from its start to its end."""

    #: The engine's `run_id`; None if it cannot be told from others.
    run: str | None
    info: Mapping[str, Any]

    @property
    def site(self) -> str:
        """Name of the place where this engine's containers live."""
        return f"docker {self.info['ID']}"

    @property
    def rootless(self) -> bool:
        """Whether root inside is the engine's user outside."""
        return "name=rootless" in (self.info.get("SecurityOptions") or [])


class KnownFacts:
    """Of one engine; they may be asked for from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: Facts | None = None

    def now(self) -> Facts:
        """As they are now; `EngineUnavailable` if the engine does not answer."""
        known, run = self._known, self._engine.run_id()
        if known is None or run is None or run != known.run:
            # Restarted in between, it is asked again next time: the run is older than what it says then.
            known = self._known = Facts(run, self._engine.info())
        return known

"""What a worker's administrator decides about containers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from studio_celery.errors import SettingsError

#: User and group of scripts when the worker and its home are root's: "nobody", as everywhere.
NOBODY = (65534, 65534)


@dataclass(frozen=True, kw_only=True)
class DockerOptions:
    """Settings of the docker runtime."""

    #: `STUDIO_HOME`.
    home: Path
    #: Image for experiments that name none; `{python}` becomes the submitter's Python.
    image: str = "python:{python}-slim"
    #: "uid" or "uid:gid" that scripts run as; None: the worker's, for root the owner of `home`, else 65534.
    user: str | None = None
    #: Address of the engine; None: as the worker's `DOCKER_HOST` says.
    host: str | None = None
    #: Network of scripts, and of the containers that install requirements.
    network: str = "bridge"
    install_network: str = "bridge"
    #: Memory limit for experiments that ask for none; None: no limit.
    memory_bytes: int | None = None
    #: Shared memory for experiments that ask for none. An upper bound: what is not used costs nothing. The engine's
    #: own 64 MiB break data loaders.
    shm_bytes: int = 8 * 2**30
    #: Processes and threads. Against fork bombs; a loader on a host with many cores has thousands of threads.
    pids: int = 16384
    #: Size of the engine's log of a container: only errors of the shim and of installing are in it.
    log_max_bytes: int = 10 * 2**20
    #: Time for pulling an image, and silence from its registry that is taken for a dead one.
    pull_limit_seconds: float = 1200.0
    pull_silence_seconds: float = 300.0
    #: An engine that is told to stop is gone after this time: it gives its containers 15 s.
    settle_seconds: float = 20.0
    #: How old a listing of containers may be by which it is told that one runs.
    listing_seconds: float = 1.0
    #: Time for installing requirements.
    install_limit_seconds: float = 3600.0
    #: The worker's environment: where the engine is, index and proxy settings for installing. Never given to scripts.
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def home_label(self) -> str:
        """Id of this `STUDIO_HOME` in labels."""
        return hashlib.sha256(os.fsencode(self.home.resolve())).hexdigest()[:16]

    def default_image(self, python: str) -> str:
        """Image for a submitter's Python."""
        return self.image.replace("{python}", python)

    def identity(self, *, rootless: bool) -> tuple[int, int]:
        """Numbers of the user and group that scripts run as, as the engine sees them."""
        if self.user is not None:
            return _parse_user(self.user)
        if rootless:
            return 0, 0  # which outside is the user whom the engine belongs to
        if os.getuid() != 0:
            return os.getuid(), os.getgid()
        owner = self.home.stat()
        return (owner.st_uid, owner.st_gid) if owner.st_uid != 0 else NOBODY


def _parse_user(text: str) -> tuple[int, int]:
    uid, _, gid = text.partition(":")
    if not uid.isdigit() or not (gid or uid).isdigit():
        raise SettingsError(f"STUDIO_UID is {text!r}, which cannot be used: write uid or uid:gid, in numbers.")
    return int(uid), int(gid or uid)

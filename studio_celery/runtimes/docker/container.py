"""What a container is created with: pure functions from a `Launch` to the engine's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from studio_celery.runtimes import directory, shim
from studio_celery.runtimes.contract import Handle, Launch
from studio_celery.runtimes.docker.options import DockerOptions

#: Places inside. Everything of ours but the workspace is below one folder that no image has.
WORKSPACE = "/workspace"
ARTIFACTS = "/studio/artifacts"
HOME = "/studio/home"
IO = "/studio/io"
SHIM = "/studio/shim.py"
ENVIRONMENT = "/opt/studio/environment"

#: Search path of an image that sets none: the engine's own default.
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Base:
    """What was found out about image, engine and user before a container is created."""

    #: Id of the image, so that a tag moved meanwhile changes nothing.
    image_id: str
    #: Name that was asked for.
    image: str
    uid: int
    gid: int
    #: Environment of the image.
    image_variables: Mapping[str, str]
    #: The engine's `run_id`.
    engine_run: str
    #: The environment with the requirements on this host, if there are any.
    environment: Path | None = None

    @property
    def user(self) -> str:
        """User and group in the engine's form."""
        return f"{self.uid}:{self.gid}"

    def with_environment(self, path: Path) -> Base:
        """The same with requirements."""
        return replace(self, environment=path)


def container_name(experiment_id: str, attempt: int) -> str:
    """One name, one container: the engine itself refuses a second one for the same attempt."""
    return f"studio-{experiment_id}-{attempt}"


def script_arguments(launch: Launch, options: DockerOptions, base: Base) -> dict[str, Any]:
    """Arguments of the container that runs the script."""
    resources = launch.resources
    memory = resources.memory_bytes or options.memory_bytes
    shm = resources.shm_bytes or min(options.shm_bytes, memory or options.shm_bytes)
    return {
        **_common(options, base, network=options.network),
        "name": container_name(launch.experiment_id, launch.attempt),
        "entrypoint": ["python3", "-E", "-S", SHIM, *directory.shim_options(launch), IO],
        "working_dir": WORKSPACE,
        "environment": _variables(launch, base),
        "mounts": _mounts(launch, base),
        "labels": _labels(launch, options, base),
        "mem_limit": memory,
        "memswap_limit": memory,
        "nano_cpus": None if resources.cpus is None else int(resources.cpus * 1e9),
        "pids_limit": options.pids,
        "shm_size": shm,
        **_cards(launch.cards),
    }


def install_name(options: DockerOptions, key: str) -> str:
    """One name, one container: of the one that installs an environment of one `STUDIO_HOME`."""
    return f"studio-install-{options.home_label}-{key}"


def install_arguments(
    options: DockerOptions, base: Base, key: str, mounts: list[dict[str, Any]], variables: Mapping[str, str]
) -> dict[str, Any]:
    """Arguments of the container that installs requirements into the environment `key`."""
    python = f"{ENVIRONMENT}/bin/python"
    steps = (
        f'/opt/studio/uv venv --no-project --quiet --clear --system-site-packages --python "$(command -v python3)" '
        f"{ENVIRONMENT}",
        f"/opt/studio/uv pip install --python {python} -r /opt/studio/requirements.txt",
    )
    return {
        **_common(options, base, network=options.install_network),
        "name": install_name(options, key),
        "entrypoint": ["/bin/sh", "-c", " && ".join(steps)],
        "working_dir": "/tmp",
        "environment": {**variables, "HOME": "/tmp", "NVIDIA_VISIBLE_DEVICES": "void"},
        "mounts": mounts,
        "labels": {"studio.install": options.home_label, "studio.environment": key},
        "pids_limit": options.pids,
        "runtime": "runc",
    }


def mount(source: Path, target: str, *, read_only: bool) -> dict[str, Any]:
    """A directory or file of the host; unlike the older form it is an error if it does not exist."""
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": read_only}


def handle_of(container: str, labels: Mapping[str, str]) -> Handle:
    """The attempt that a container's labels tell of."""
    return Handle(
        experiment_id=labels["studio.experiment"],
        attempt=int(labels["studio.attempt"]),
        worker=labels["studio.worker"],
        directory=Path(labels["studio.directory"]),
        ref=container,
        cards=tuple(card for card in labels["studio.cards"].split(",") if card),
    )


def _common(options: DockerOptions, base: Base, *, network: str) -> dict[str, Any]:
    return {
        "image": base.image_id,
        "command": [],
        "user": base.user,
        "init": True,
        "security_opt": ["no-new-privileges"],
        "cap_drop": ["ALL"],
        "network_mode": network,
        "stop_signal": "SIGTERM",
        "healthcheck": {"test": ["NONE"]},
        "log_config": {
            "type": "local",
            "config": {"max-size": str(options.log_max_bytes), "max-file": "1", "compress": "false"},
        },
    }


def _variables(launch: Launch, base: Base) -> dict[str, str]:
    defaults = {"USER": "studio", "LOGNAME": "studio"}
    variables = directory.script_variables(launch, ARTIFACTS, HOME, defaults)
    if base.environment is not None:
        path = variables.get("PATH") or base.image_variables.get("PATH") or DEFAULT_PATH
        variables.update(PATH=f"{ENVIRONMENT}/bin:{path}", VIRTUAL_ENV=ENVIRONMENT)
    # Also with cards: an image's own value must not stand beside what the device request adds.
    variables["NVIDIA_VISIBLE_DEVICES"] = ",".join(launch.cards) or "void"
    return variables


def _mounts(launch: Launch, base: Base) -> list[dict[str, Any]]:
    mounts = [
        mount(launch.workspace, WORKSPACE, read_only=False),
        mount(launch.artifacts, ARTIFACTS, read_only=False),
        mount(launch.directory / "home", HOME, read_only=False),
        mount(launch.io, IO, read_only=False),
        mount(Path(shim.__file__).resolve(), SHIM, read_only=True),
    ]
    if base.environment is not None:
        mounts.append(mount(base.environment, ENVIRONMENT, read_only=True))
    return mounts


def _labels(launch: Launch, options: DockerOptions, base: Base) -> dict[str, str]:
    return {
        "studio.home": options.home_label,
        "studio.experiment": launch.experiment_id,
        "studio.attempt": str(launch.attempt),
        "studio.epoch": str(launch.epoch),
        "studio.worker": launch.worker,
        "studio.cards": ",".join(launch.cards),
        "studio.directory": str(launch.directory),
        "studio.image": base.image,
        "studio.engine-run": base.engine_run,
    }


def _cards(cards: tuple[str, ...]) -> dict[str, Any]:
    """Exactly these cards, never a count; without any, a runtime that could not give one."""
    if not cards:
        return {"runtime": "runc"}
    return {"device_requests": [{"device_ids": list(cards), "capabilities": [["gpu"]]}]}

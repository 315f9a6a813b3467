"""Starts without any worker, of the same script with the same options: what no worker can beat."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import docker

from studio_celery.experiment import new_id
from studio_celery.runtimes import directory
from studio_celery.runtimes.contract import Launch
from studio_celery.runtimes.docker import DockerOptions
from studio_celery.runtimes.docker.container import Base, script_arguments
from supervision.borrowed import need_engine, need_image

#: Label of what is started here, so that no worker takes it for its own.
_LABELS = {"bench": "attempts"}
_numbers = count(1)


class Containers:
    """Bare starts of containers, each in a directory of its own that was made ready before."""

    def __init__(self, folder: Path, source: str) -> None:
        folder.mkdir()
        self._folder = folder
        self._source = source
        self._options = DockerOptions(home=folder)
        self._client = docker.DockerClient(base_url=need_engine())
        image = self._client.api.inspect_image(need_image())
        pairs = dict(each.partition("=")[::2] for each in image["Config"].get("Env") or [])
        uid, gid = self._options.identity(rootless=False)
        self._base = Base(image["Id"], need_image(), uid, gid, pairs, "")

    def command(self) -> float:
        """Start one by `docker run`; milliseconds from the call to the start."""
        arguments = self._arguments()
        argv = ["docker", "--host", need_engine(), "run", "--detach", *_flags(arguments)]
        began = time.time()
        subprocess.run(argv, check=True, capture_output=True)
        return self._ended(arguments["name"], began)

    def library(self) -> float:
        """Start one by Docker's library, which is connected already; milliseconds as above."""
        arguments = self._arguments()
        began = time.time()
        self._client.containers.run(**arguments, detach=True)
        return self._ended(arguments["name"], began)

    def started_at(self, name: str) -> float:
        """When the engine says that a container started, seconds since 1970."""
        text = self._client.api.inspect_container(name)["State"]["StartedAt"]
        whole, _, fraction = text.rstrip("Z").partition(".")
        return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")

    def close(self) -> None:
        self._client.close()

    def _arguments(self) -> dict[str, Any]:
        """Options as a worker gives them, for a directory that is ready."""
        identity: dict[str, Any] = {"experiment_id": new_id(), "attempt": 1, "epoch": 3, "worker": "bench"}
        launch = Launch(argv=("script.py",), directory=self._folder / str(next(_numbers)), **identity)
        directory.make(launch.directory, "bench")
        (launch.workspace / "script.py").write_text(self._source)
        directory.write_command(launch, "python3")
        if os.getuid() == 0:
            directory.hand_over(launch.directory, self._base.uid, self._base.gid)
        return {**script_arguments(launch, self._options, self._base), "labels": _LABELS}

    def _ended(self, name: str, began: float) -> float:
        milliseconds = (self.started_at(name) - began) * 1000
        self._client.api.remove_container(name, v=True, force=True)
        return milliseconds


def _flags(arguments: Mapping[str, Any]) -> list[str]:
    """The same for the command line."""
    entrypoint, *rest = arguments["entrypoint"]
    flags = ["--name", arguments["name"], "--user", arguments["user"], "--init", "--entrypoint", entrypoint]
    flags += ["--cap-drop", "ALL", "--network", arguments["network_mode"], "--stop-signal", arguments["stop_signal"]]
    flags += ["--no-healthcheck", "--workdir", arguments["working_dir"], "--runtime", arguments["runtime"]]
    flags += ["--pids-limit", str(arguments["pids_limit"]), "--shm-size", str(arguments["shm_size"])]
    flags += ["--log-driver", arguments["log_config"]["type"]]
    for name, value in arguments["log_config"]["config"].items():
        flags += ["--log-opt", f"{name}={value}"]
    for option in arguments["security_opt"]:
        flags += ["--security-opt", option]
    for name, value in arguments["environment"].items():
        flags += ["--env", f"{name}={value}"]
    for name, value in arguments["labels"].items():
        flags += ["--label", f"{name}={value}"]
    for each in arguments["mounts"]:
        only = ",readonly" if each["ReadOnly"] else ""
        flags += ["--mount", f"type=bind,source={each['Source']},target={each['Target']}{only}"]
    return [*flags, arguments["image"], *rest]


def python(script: Path) -> float:
    """Start a bare interpreter; milliseconds from the call to the script's first line, which prints the clock."""
    began = time.monotonic()
    done = subprocess.run([sys.executable, str(script)], check=True, capture_output=True, text=True)
    return (float(done.stdout.split()[0]) - began) * 1000

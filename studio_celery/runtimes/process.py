"""Attempts as plain processes of this host: no isolation, only where the worker's administrator chose it.

The shim lives in a session of its own and is found again by `STUDIO_HOME/run/<experiment>/<attempt>/process.json`
(written by us; containers cannot reach it) and `io/pid.json` (written by the shim). A script gets the studio variables
and its submitter's, never the worker's secrets; it sees no cards.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from studio_celery.errors import EngineUnavailable, RuntimeFailure
from studio_celery.experiment import Resources
from studio_celery.runtimes import directory, host, installer, processes, shim
from studio_celery.runtimes.contract import Cancelled, Exit, Handle, Launch, Progress
from studio_celery.runtimes.environments import Environments, Recipe
from studio_celery.settings import Settings

#: How long the shim may take to start a script, and to end after it was told to kill everything.
SHIM_SECONDS = 10.0

#: Variable by which the processes of an installation are known: the directory that they fill.
INSTALLING = "STUDIO_INSTALLING"

#: Variables of the worker that a script gets, too.
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME")


class ProcessRuntime:
    """The contract, with processes."""

    name = "process"

    def __init__(self, home: Path, variables: Mapping[str, str]) -> None:
        """`variables` is the worker's environment: a few go to the script, index and proxy settings to `uv`."""
        self._home = home.resolve()
        self._variables = variables
        self._environments = Environments(self._home)

    @classmethod
    def from_settings(cls, settings: Settings) -> ProcessRuntime:
        """The runtime for a worker with these settings."""
        return cls(settings.home, dict(os.environ))

    def check(self) -> None:
        """Raise `EngineUnavailable` if no attempt could be started here now."""
        if not Path("/proc/self/stat").exists():
            raise EngineUnavailable("The process runtime needs Linux with /proc: use the docker runtime here.")

    def refuses(self, resources: Resources) -> str | None:
        """Processes get neither cards nor limits."""
        if resources.gpus:
            return "This worker runs scripts as processes and gives them no cards: it needs the docker runtime."
        if resources.cpus or resources.memory_bytes or resources.shm_bytes:
            return "This worker runs scripts as processes and cannot limit them: it needs the docker runtime."
        return None

    def prepare(self, launch: Launch, progress: Progress, cancelled: Cancelled) -> None:
        """Install the requirements, if there are any."""
        directory.make(launch.directory, self.site())
        if launch.image:
            progress(f"image {launch.image} is not used: this worker runs scripts as processes")
        if recipe := self._recipe(launch):
            self._environments.ensure(recipe, launch, self._install, progress, cancelled)

    def start(self, launch: Launch) -> Handle:
        """Start the shim, which leaves us as soon as the script runs."""
        handle = Handle(launch.experiment_id, launch.attempt, launch.worker, launch.directory, ref="")
        if shim_of(handle) is None:
            directory.make(launch.directory, self.site())
            directory.forget_ending(launch.directory)
            directory.write_command(launch, self._interpreter(launch))
            record = {**asdict(handle), "directory": str(launch.directory)}
            _write_record(launch.directory, record)
            try:
                self._start_shim(launch)
            except RuntimeFailure:
                self.remove(handle)  # a shim that was slow may have started the script by now
                raise
            # From now on only what is written here counts: `io` is the script's to write to.
            if identity := shim_of(handle):
                _write_record(launch.directory, {**record, "shim": asdict(identity)})
        return _with_ref(handle)

    def find(self) -> list[Handle]:
        """All attempts that were started and not removed; a shim that never started is none."""
        found = []
        for path in directory.all_with(self._home, "process.json"):
            record = directory.read_json(path)
            if record is not None:
                handle = _with_ref(
                    Handle(record["experiment_id"], record["attempt"], record["worker"], path.parent, "")
                )
                found += [handle] if handle.ref else []
        return found

    def poll(self, handle: Handle) -> Exit | None:
        """How it ended, or None while the shim is alive."""
        identity = shim_of(handle)
        if identity is not None and identity.alive() and directory.read_ending(handle.directory) is None:
            return None
        ending = directory.read_ending(handle.directory)
        if ending is not None and not ending.interrupted:
            return ending.exit
        if identity is not None and identity.boot_id != processes.boot_id():
            return Exit(lost="the host was rebooted")
        if ending is None:
            return Exit(lost="the shim beside the script was killed")
        return Exit(lost="the host is going down") if host.going_down() else ending.exit

    def stop(self, handle: Handle, grace_seconds: float) -> None:
        """SIGTERM, grace, then SIGKILL to every process that the attempt started."""
        if identity := shim_of(handle):
            with processes.hold(identity) as held:
                if held:
                    _end_shim(held, grace_seconds)
        _kill_leftovers(handle)

    def remove(self, handle: Handle) -> None:
        """Kill what is left of it, and forget it."""
        _kill_leftovers(handle)
        (handle.directory / "process.json").unlink(missing_ok=True)
        (handle.directory / "io" / "pid.json").unlink(missing_ok=True)

    def tidy(self) -> None:
        """End installations whose worker was killed, and remove what they made."""
        for place in self._environments.unfinished():
            self._environments.end(place.path.name, partial(_kill_installers, place.partial))

    def site(self) -> str:
        """The processes of any host; whose host it was, the journal knows."""
        return self.name

    def describe(self) -> Mapping[str, Any]:
        """The Python that scripts get."""
        return {"runtime": self.name, "python": platform.python_version()}

    def _recipe(self, launch: Launch) -> Recipe | None:
        if launch.requirements is None:
            return None
        return Recipe(("process", sys.executable, platform.python_version()), launch.requirements)

    def _interpreter(self, launch: Launch) -> str:
        recipe = self._recipe(launch)
        if recipe is None:
            return sys.executable
        python = self._environments.path(recipe) / "bin" / "python"
        if not python.exists():
            raise RuntimeFailure("The installed requirements were removed meanwhile.")
        return str(python)

    def _install(self, target: Path, requirements: Path, cancelled: Cancelled) -> installer.Outcome:
        """Make a virtual environment with the worker's own `uv` and Python."""
        _kill_installers(target.parent)  # of a worker that was killed: we hold the lock
        with self._environments.packages("process", cancelled) as packages:
            return self._install_with(packages, target, requirements, cancelled)

    def _install_with(
        self, packages: Path, target: Path, requirements: Path, cancelled: Cancelled
    ) -> installer.Outcome:
        variables = {
            **{name: value for name, value in self._variables.items() if name in ("PATH", "HOME", "TMPDIR")},
            **installer.source_variables(self._variables),
            "UV_CACHE_DIR": str(packages),
            INSTALLING: str(target.parent),
        }
        make = ("venv", "--no-project", "--quiet", "--relocatable", "--python", sys.executable, str(target))
        made = installer.run_uv(make, variables, cancelled)
        if made.exit_code:
            return made
        install = ("pip", "install", "--python", str(target / "bin/python"), "-r", str(requirements))
        return installer.run_uv(install, variables, cancelled)

    def _start_shim(self, launch: Launch) -> None:
        defaults = {name: value for name, value in self._variables.items() if name in PASSED_ON}
        variables = directory.script_variables(
            launch, str(launch.artifacts), str(launch.directory / "home"), {"LANG": "C.UTF-8", **defaults}
        )
        if launch.requirements is not None:
            environment = Path(self._interpreter(launch)).parent
            variables["PATH"] = f"{environment}:{variables.get('PATH', '')}"
            variables["VIRTUAL_ENV"] = str(environment.parent)
        options = directory.shim_options(launch)
        command = [sys.executable, "-E", "-S", shim.__file__, "--daemon", *options, str(launch.io)]
        variables.update(CUDA_VISIBLE_DEVICES="", NVIDIA_VISIBLE_DEVICES="void")
        try:
            subprocess.run(
                command,
                cwd=launch.workspace,
                env=variables,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                start_new_session=True,
                timeout=SHIM_SECONDS,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as exc:
            raise RuntimeFailure(f"The shim beside the script cannot be started: {exc}.") from exc


def shim_of(handle: Handle) -> processes.Identity | None:
    """The process that looks after the attempt, as the worker noted it, or else as it introduced itself."""
    noted = (directory.read_json(handle.directory / "process.json") or {}).get("shim")
    record = noted or directory.read_json(handle.directory / "io" / "pid.json") or {}
    pid, start_time, boot_id = (record.get(name) for name in ("pid", "start_time", "boot_id"))
    if not isinstance(pid, int) or not isinstance(start_time, int) or not isinstance(boot_id, str) or pid <= 1:
        return None
    return processes.Identity(pid, start_time, boot_id)


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Replace the attempt's record in one step."""
    temporary = folder / "process.json.new"
    temporary.write_text(json.dumps(record))
    temporary.replace(folder / "process.json")


def _with_ref(handle: Handle) -> Handle:
    identity = shim_of(handle)
    ref = "" if identity is None else str(identity.pid)
    return Handle(handle.experiment_id, handle.attempt, handle.worker, handle.directory, ref)


def _end_shim(held: processes.Held, grace_seconds: float) -> None:
    """Ask the shim to end the script, then to kill it and save its last output, then kill the shim."""
    steps = (signal.SIGTERM, grace_seconds), (signal.SIGUSR1, SHIM_SECONDS), (signal.SIGKILL, SHIM_SECONDS)
    for number, seconds in steps:
        held.send(number)
        if held.wait(seconds):
            return


def _kill_installers(partial: Path) -> None:
    """Kill what a killed worker left installing into a directory: it would write among what is made there next."""
    left = processes.kill_marked(INSTALLING, str(partial), SHIM_SECONDS)
    if left:
        raise RuntimeFailure(f"The processes {left} that install requirements cannot be killed.")


def _kill_leftovers(handle: Handle) -> None:
    """Kill what the shim could not: whatever still carries the attempt's own variable."""
    left = processes.kill_marked("STUDIO_ARTIFACTS", str(handle.directory / "artifacts"), SHIM_SECONDS)
    if left:
        raise RuntimeFailure(f"The processes {left} of attempt {handle.attempt} cannot be killed.")

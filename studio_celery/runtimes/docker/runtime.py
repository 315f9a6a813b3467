"""The contract of runtimes, with Docker."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from studio_celery.errors import EngineUnavailable, RuntimeFailure
from studio_celery.experiment import Resources
from studio_celery.runtimes import directory, host
from studio_celery.runtimes.contract import Cancelled, Exit, Handle, Launch, Progress
from studio_celery.runtimes.docker import verdict
from studio_celery.runtimes.docker.census import Census
from studio_celery.runtimes.docker.container import ENVIRONMENT, Base, container_name, handle_of, script_arguments
from studio_celery.runtimes.docker.doubts import Doubts
from studio_celery.runtimes.docker.engine import Engine, Refused
from studio_celery.runtimes.docker.facts import Facts, KnownFacts
from studio_celery.runtimes.docker.images import Image, Images
from studio_celery.runtimes.docker.install import ContainerInstall
from studio_celery.runtimes.docker.options import DockerOptions
from studio_celery.runtimes.environments import Environments, Recipe
from studio_celery.settings import Settings

#: How long the shim may take to save the last output after it was told to kill the script, and the engine to kill it.
KILL_SECONDS = 10.0

#: How old a listing of containers may be, in looks at whether a script has ended.
POLLS_PER_LISTING = 5

#: The least memory that an engine accepts as a limit.
MEMORY_BYTES_MIN = 6 * 2**20


class DockerRuntime:
    """One fresh container per attempt."""

    name = "docker"

    def __init__(self, options: DockerOptions) -> None:
        self.options = options
        self._engine = Engine(options.host, options.variables)
        self._facts = KnownFacts(self._engine)
        self._census = Census(self._engine, f"studio.home={options.home_label}", options.listing_seconds)
        self._doubts = Doubts(options.settle_seconds)
        self._images = Images(self._engine, options)
        self._environments = Environments(options.home.resolve())

    def __reduce__(self) -> tuple[type[DockerRuntime], tuple[DockerOptions]]:
        """Another process gets the same options, and connects by itself."""
        return DockerRuntime, (self.options,)

    @classmethod
    def from_settings(cls, settings: Settings) -> DockerRuntime:
        """The runtime for a worker with these settings."""
        return cls(
            DockerOptions(
                home=settings.home,
                image=settings.image or DockerOptions.image,
                user=settings.uid,
                pull_limit_seconds=settings.pull_limit_seconds,
                settle_seconds=settings.engine_settle_seconds,
                listing_seconds=settings.poll_seconds * POLLS_PER_LISTING,
                variables=dict(os.environ),
            )
        )

    def check(self) -> None:
        """Raise `EngineUnavailable` if no container could be started here now."""
        facts = self._facts.now().info
        if facts.get("OSType") != "linux":
            raise EngineUnavailable("The Docker engine runs no Linux containers: switch it to them.")

    def refuses(self, resources: Resources) -> str | None:
        """What this host does not have at all; cards are counted elsewhere. A dead engine is for `check` to tell."""
        try:
            facts = self._facts.now().info
        except EngineUnavailable:
            return None
        if resources.cpus is not None and resources.cpus > facts["NCPU"]:
            return f"needs {resources.cpus:g} CPUs, this host has {facts['NCPU']}"
        if resources.memory_bytes is not None and resources.memory_bytes > facts["MemTotal"]:
            return f"needs {resources.memory_bytes} bytes of memory, this host has {facts['MemTotal']}"
        if resources.memory_bytes is not None and resources.memory_bytes < MEMORY_BYTES_MIN:
            return f"asks for {resources.memory_bytes} bytes of memory, Docker needs at least {MEMORY_BYTES_MIN}"
        return None

    def prepare(self, launch: Launch, progress: Progress, cancelled: Cancelled) -> None:
        """Pull the image and install the requirements, whatever is missing; give the directory to its user."""
        facts = self._facts.now()
        directory.make(launch.directory, facts.site)
        image = self._images.ensure(self._image_name(launch), progress, cancelled)
        base = self._base(launch, image, facts)
        if recipe := _recipe(launch, base):
            install = ContainerInstall(self._engine, self.options, self._environments, base)
            self._environments.ensure(recipe, launch, install, progress, cancelled)
        _hand_over(launch, base)

    def start(self, launch: Launch) -> Handle:
        """Create and start the container; one that is there for the same attempt is the one."""
        image = self._images.find(self._image_name(launch))
        if image is None:
            raise RuntimeFailure(f"The image {self._image_name(launch)} was removed from this host meanwhile.")
        facts = self._facts.now()
        base = self._base(launch, image, facts)
        if base.environment is not None and not base.environment.exists():
            raise RuntimeFailure("The installed requirements, or the image that they fit, were removed meanwhile.")
        directory.make(launch.directory, facts.site)
        arguments = script_arguments(launch, self.options, base)
        try:
            container = self._engine.create(**arguments)
        except Refused as exc:
            if exc.status != 409:
                raise verdict.start_failure(exc) from exc
            handle, started = self._created_before(launch, exc)
        else:
            handle, started = handle_of(container, arguments["labels"]), False
        if not started:
            self._start(handle, launch, base)
        return handle

    def find(self) -> list[Handle]:
        """All containers of this `STUDIO_HOME`, by their labels."""
        containers = self._engine.containers(f"studio.home={self.options.home_label}")
        return [handle_of(container["Id"], container["Labels"]) for container in containers]

    def poll(self, handle: Handle) -> Exit | None:
        """How it ended: as the shim says, unless the engine's end may have been the cause; else as the engine says."""
        ending = directory.read_ending(handle.directory)
        if ending is not None and not ending.interrupted:
            return ending.exit
        if self._census.runs(handle.ref):
            return None
        facts = self._engine.inspect(handle.ref)
        if facts is None:
            return Exit(lost="the container was removed")
        if verdict.alive(facts):
            return None
        ending = directory.read_ending(handle.directory)
        if ending is None:
            self._save_errors(handle)
        exit = verdict.judge(facts, ending, self._engine.run_id(), host_goes_down=host.going_down())
        return None if self._doubts.about(handle.ref, exit, ending) else exit

    def stop(self, handle: Handle, grace_seconds: float) -> None:
        """SIGTERM, grace, SIGKILL by the shim so that the last output is saved, and then by the engine."""
        self._doubts.kill(handle.ref)
        for signal, seconds in (("SIGTERM", grace_seconds), ("SIGUSR1", KILL_SECONDS), ("SIGKILL", KILL_SECONDS)):
            facts = self._engine.inspect(handle.ref)
            if facts is None or not verdict.alive(facts):
                return
            self._engine.kill(handle.ref, signal)
            self._engine.wait(handle.ref, seconds)
            self._census.forget()
        facts = self._engine.inspect(handle.ref)
        if facts is not None and verdict.alive(facts):
            raise EngineUnavailable(f"The container {handle.ref[:12]} cannot be killed: look at its processes.")

    def remove(self, handle: Handle) -> None:
        """Remove the container, whatever state it is in."""
        self._engine.remove(handle.ref)
        self._census.forget()
        self._doubts.forget(handle.ref)

    def tidy(self) -> None:
        """Remove the containers of installations that nobody waits for any more, and what they made."""
        for container in self._engine.containers(f"studio.install={self.options.home_label}"):
            if key := container["Labels"].get("studio.environment"):
                self._environments.end(key, partial(self._engine.remove, container["Id"]))

    def site(self) -> str:
        """This very engine."""
        return self._facts.now().site

    def describe(self) -> Mapping[str, Any]:
        """The engine and its host."""
        facts = self._facts.now().info
        return {
            "runtime": self.name,
            "engine": facts["ServerVersion"],
            "cpus": facts["NCPU"],
            "memory_bytes": facts["MemTotal"],
        }

    def _save_errors(self, handle: Handle) -> None:
        """Add what the engine heard from the shim itself to the log: the image has no Python, for one."""
        with suppress(OSError, Refused):  # the log or the container is gone: then nobody reads it
            if output := self._engine.output(handle.ref):
                directory.append_once(handle.log, b"[studio] The script could not be run: " + output)

    def _image_name(self, launch: Launch) -> str:
        return launch.image or self.options.default_image(launch.python)

    def _base(self, launch: Launch, image: Image, facts: Facts) -> Base:
        """Everything that the container depends on besides the launch."""
        uid, gid = self.options.identity(rootless=facts.rootless)
        base = Base(image.id, image.name, uid, gid, image.variables, facts.run or "")
        recipe = _recipe(launch, base)
        return base if recipe is None else base.with_environment(self._environments.path(recipe))

    def _start(self, handle: Handle, launch: Launch, base: Base) -> None:
        """Start what was created. Nothing in the directory is touched before: the shim may be reading there."""
        directory.forget_ending(launch.directory)
        directory.write_command(launch, f"{ENVIRONMENT}/bin/python" if base.environment else "python3")
        _hand_over(launch, base)
        try:
            self._engine.start(handle.ref)
        except RuntimeFailure as exc:
            self._engine.remove(handle.ref)
            raise verdict.start_failure(exc) from exc

    def _created_before(self, launch: Launch, refusal: Refused) -> tuple[Handle, bool]:
        """The container that has the name already, if it is this attempt's, and whether it was ever started."""
        facts = self._engine.inspect(container_name(launch.experiment_id, launch.attempt))
        labels = facts["Config"]["Labels"] or {} if facts else {}
        if facts is None or labels.get("studio.home") != self.options.home_label:
            raise refusal
        return handle_of(facts["Id"], labels), facts["State"]["Status"] != "created"


def _recipe(launch: Launch, base: Base) -> Recipe | None:
    if launch.requirements is None:
        return None
    return Recipe((base.image_id, base.user), launch.requirements)


def _hand_over(launch: Launch, base: Base) -> None:
    if os.getuid() == 0:
        directory.hand_over(launch.directory, base.uid, base.gid)

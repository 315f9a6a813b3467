"""What of a studio's attempts is still alive on this host."""

from __future__ import annotations

from pathlib import Path

from processes import Studio
from studio import alive

from studio_celery.runtimes import make_runtime
from studio_celery.runtimes.docker import DockerRuntime
from studio_celery.runtimes.docker.engine import Engine
from studio_celery.settings import load


def processes_of(studio: Studio) -> list[str]:
    """Living processes that scripts, or installations, of this studio started."""
    home, found = str(studio.home).encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if b"STUDIO_ARTIFACTS=" + home in content or b"STUDIO_INSTALLING=" + home in content:
            found += [f"process {path.parent.name}"] if alive(int(path.parent.name)) else []
    return found


def containers_of(studio: Studio) -> list[str]:
    """Containers of this studio, of scripts and installations, alive or not."""
    runtime = make_runtime(load(environ=studio.environ))
    if not isinstance(runtime, DockerRuntime):
        return []
    options = runtime.options
    engine, home = Engine(options.host, options.variables), options.home_label
    labels = (f"studio.home={home}", f"studio.install={home}")
    return [f"container {container['Id']}" for label in labels for container in engine.containers(label)]

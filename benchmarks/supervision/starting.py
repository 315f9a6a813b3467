"""How much longer a start takes through a worker than without one."""

from __future__ import annotations

import os
import time

from calls import Child

from supervision.bare import Containers, python
from supervision.figures import COMMAND, DOCKER, FIRST_LINE, LIBRARY, PROCESS, PYTHON, START
from supervision.place import Bench, Place

#: Tells the monotonic clock at once, and lives until its container was looked at.
SOURCE = "import time\nprint(time.monotonic(), flush=True)\ntime.sleep(0.5)\n"
#: Seconds after an end until all is quiet.
_SETTLE_SECONDS = 0.3


def starting(bench: Bench) -> None:
    """All start one in each turn."""
    bare = Containers(bench.folder / "bare", SOURCE)
    script = bench.folder / "script.py"
    script.write_text(SOURCE)
    with bench.place("docker") as containers, bench.place("process") as processes:
        for place in (containers, processes):
            place.studio.script(SOURCE)
            place.start()
        with containers.submitter() as to_containers, processes.submitter() as to_processes:
            for number in range(-bench.scale.warm_up, bench.scale.starts):
                found = {
                    (START, DOCKER): _to_container(containers, to_containers, bare),
                    (START, COMMAND): bare.command(),
                    (START, LIBRARY): bare.library(),
                    (FIRST_LINE, PROCESS): _to_first_line(processes, to_processes),
                    (FIRST_LINE, PYTHON): python(script),
                }
                for (measure, who), milliseconds in found.items():
                    if number >= 0:
                        bench.board.add(measure, who, milliseconds)
    bare.close()
    load = f"the load average was {os.getloadavg()[1]:.0f} on {os.cpu_count()} cores"
    bench.board.note(START, DOCKER, load)
    bench.board.note(FIRST_LINE, PROCESS, load)


def _to_container(place: Place, submitter: Child, bare: Containers) -> float:
    experiment = submitter.ask("submit", script="script.py", args=[])
    place.wait_until_started(experiment)
    ahead = time.time() - time.monotonic()
    milliseconds = (bare.started_at(f"studio-{experiment}-1") - ahead - place.received_at(experiment)) * 1000
    place.wait_until_ended([experiment])
    time.sleep(_SETTLE_SECONDS)
    return milliseconds


def _to_first_line(place: Place, submitter: Child) -> float:
    experiment = submitter.ask("submit", script="script.py", args=[])
    place.wait_until_ended([experiment])
    attempt = place.store.journal(experiment).refresh().attempts[0]
    said = place.store.log_reader(experiment, attempt).read(attempt, 0).split()[0]
    time.sleep(_SETTLE_SECONDS)
    return (float(said) - place.received_at(experiment)) * 1000

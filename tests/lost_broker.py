"""A broker that loses all its data under experiments that wait and that run; then they are queued again."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path

from processes import Studio
from studio import wait_for

from studio_celery.experiment import Status
from studio_celery.journal import Kind

#: Notes each start in a file of its own, and waits where it is told to.
SCRIPT = """\
import pathlib, sys, time, uuid
folder, name, waits = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "wait"
(folder / f"{name}-{uuid.uuid4().hex}").touch()
while waits and not (folder / "go").exists():
    time.sleep(0.05)
print(name)
"""

#: Submits many in one process. With "go" a chain and a chord come last, of which only the first parts are in a queue.
PROGRAM = """\
import json, sys
from celery import chain, chord
from studio_celery import run_experiment
folder, what, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
def run(name): return run_experiment.s("script.py", [folder, name, what], queue="q")
ids = [run(f"{what}{number}").apply_async().id for number in range(count)]
if what == "wait":
    raise SystemExit(print(json.dumps([ids, []])))
chained = chain(run("first"), run("second")).apply_async()
joined = chord([run("left"), run("right")])(run("body"))
parts = [chained.parent.id, *(part.id for part in joined.parent)]
print(json.dumps([ids + parts, [chained.id, joined.id]]))
"""


def lose_data(studio: Studio, broker: subprocess.Popen[str]) -> None:
    """Kill the broker, remove all that it knew, start it anew at its address."""
    studio.kill(broker)
    shutil.rmtree(studio.home / "broker")
    port = studio.environ["STUDIO_BROKER_URL"].rsplit(":", 1)[1].partition("/")[0]
    studio.broker(int(port))


class LostBroker:
    """Experiments, their broker and their workers."""

    def __init__(self, studio: Studio, *, running: int) -> None:
        self.studio = studio
        self.broker = studio.broker()
        self.marks = studio.folder / "marks"
        self.marks.mkdir()
        studio.script(SCRIPT)
        self.worker = studio.worker("q", "--concurrency", str(running))
        (studio.work / "program.py").write_text(PROGRAM)
        self.running, _ = self._submit("wait", running)
        for each in self.running:
            wait_for("three that run", lambda each=each: studio.status(each) is Status.RUNNING)

    def fill(self, count: int) -> None:
        """Put experiments into the queue: `waiting`, and those that `follow` them in a chain and a chord."""
        self.waiting, self.follow = self._submit("go", count)

    def _submit(self, what: str, count: int) -> tuple[list[str], list[str]]:
        done = self.studio.command(Path("python"), "program.py", str(self.marks), what, str(count))
        assert done.returncode == 0, done.stderr
        ids, follow = json.loads(done.stdout)
        return ids, follow

    def lose(self) -> None:
        """Take the broker's data away."""
        lose_data(self.studio, self.broker)

    def requeue(self, *options: str) -> subprocess.CompletedProcess[str]:
        """`studio requeue --all`."""
        return self.studio.command("studio", "requeue", "--all", *options)

    def end(self, seconds: float) -> None:
        """Let everything run to its end, and see that each ran once."""
        (self.marks / "go").touch()
        everything = [*self.running, *self.waiting, *self.follow]
        for each in everything:
            wait_for(f"the end of {each}", lambda each=each: self.studio.status(each).terminal, seconds)
        for each in everything:
            journal = self.studio.store.journal(each)
            state = journal.refresh()
            assert (state.status, len(state.attempts)) == (Status.FINISHED, 1), (each, state.attempts)
            assert [entry.kind for entry in journal.entries].count(Kind.CLAIMED) == 1
        starts = [path.name.rpartition("-")[0] for path in self.marks.iterdir() if path.name != "go"]
        assert len(starts) == len(set(starts)) == len(everything)
        self.worker.send_signal(signal.SIGTERM)  # before its broker
        assert self.worker.wait(60) == 0

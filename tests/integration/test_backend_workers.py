"""The result backend with real workers: an ordinary application's, and those that run experiments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backend_bench import BACKEND
from celery import chain, chord, group
from celery.exceptions import ChordError, WorkerLostError
from celery_worker_bench import LIMIT, WorkerBench
from processes import Studio

from transports.pubsub.link import links


@pytest.fixture(scope="module", params=["threads", "prefork"])
def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, local_broker_address: str
) -> Iterator[WorkerBench]:
    """A worker of each kind, whose results are in a directory."""
    folder = tmp_path_factory.mktemp("bench")
    results = f"{BACKEND}+file://{folder}/store"
    settings: dict[str, Any] = {"result_extended": True, "task_reject_on_worker_lost": False}
    bench = WorkerBench(folder, local_broker_address, results=results, **settings)
    bench.worker_pool = request.param
    with bench.worker(request.param, concurrency=2):
        yield bench
    links.close()


def test_canvas_and_errors_of_ordinary_tasks(bench: WorkerBench) -> None:
    add, total = (lambda *n: bench.app.signature("add", n)), bench.app.signature("total")
    assert chain(add(1, 2), add(3), add(4)).apply_async().get(timeout=LIMIT) == 10
    assert group(add(n, n) for n in range(20)).apply_async().get(timeout=LIMIT) == [2 * n for n in range(20)]
    assert chord([add(n, 1) for n in range(20)])(total).get(timeout=LIMIT) == 210
    failed = bench.send("fail", "so it is")
    with pytest.raises(ValueError, match="so it is"):
        failed.get(timeout=LIMIT)
    assert "ValueError: so it is" in failed.traceback
    assert (failed.name, failed.args) == ("fail", ["so it is"])
    with pytest.raises((ChordError, ValueError), match="so it is"):
        chord([add(1, 1), bench.app.signature("fail", ("so it is",))])(total).get(timeout=LIMIT)
    retried = bench.send("again")
    assert retried.get(timeout=LIMIT) == 2
    parent = bench.send("parent")
    child = parent.get(timeout=LIMIT)
    assert [each.id for each in bench.app.AsyncResult(parent.id).children] == [child]


@pytest.mark.parametrize("bench", ["prefork"], indirect=True)
def test_children_that_replace_lost_ones_store_results(bench: WorkerBench) -> None:
    for number in range(2):
        with pytest.raises(WorkerLostError):
            bench.run("die_once", f"child {number}")
    assert [bench.run("add", n, 1) for n in range(4)] == [1, 2, 3, 4]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """Two workers that run experiments as processes; none is taken for dead because the machine is busy."""
    patience = {"patience_floor_seconds": 120, "patience_ceiling_seconds": 600, "lease_floor_seconds": 45}
    studio = Studio(tmp_path_factory.mktemp("studio"), runtime="process", gpus="none", concurrency=3, **patience)
    studio.broker()
    studio.script(SCRIPT, "train.py")
    studio.worker("q")
    yield studio
    studio.close()


#: Prints its arguments; fails where one is a number.
SCRIPT = """\
import sys
print(*sys.argv[1:])
if sys.argv[1].isdigit():
    raise ValueError("as asked")
"""


def python(studio: Studio, body: str) -> Any:
    """What a program that uses the API prints as JSON on its last line."""
    head = (
        "import json\n"
        "from celery import chain, chord, group\n"
        "from studio_celery import ExperimentFailed, app, run_experiment\n"
        "def run(*args): return run_experiment.s('train.py', list(args), queue='q')\n"
    )
    (studio.work / "program.py").write_text(head + body)
    done = studio.command(Path("python"), "program.py")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_chain_of_experiments(studio: Studio) -> None:
    told = python(
        studio,
        "last = chain(run('a'), run('b')).apply_async()\n"
        "record = last.get(timeout=110)\n"
        "first = app.AsyncResult(last.parent.id)\n"
        "print(json.dumps([record['args'], first.get()['args'], record['id'] == last.id, last.date_done.year]))\n",
    )
    assert told[:3] == [["b"], ["a"], True]


def test_a_group_of_experiments_that_is_restored(studio: Studio) -> None:
    told = python(
        studio,
        "made = group(run('a'), run('b'), run('1')).apply_async()\n"
        "made.save()\n"
        "found = app.GroupResult.restore(made.id)\n"
        "values = found.get(timeout=110, propagate=False)\n"
        "bad = found.results[2]\n"
        "print(json.dumps([[v['args'] for v in values[:2]], values[2].exit_code, found.completed_count(),\n"
        "    bad.state, bad.traceback.splitlines()[-1]]))\n",
    )
    assert told == [[["a"], ["b"]], 1, 2, "FAILURE", "ValueError: as asked"]


def test_a_chord_whose_header_and_body_are_experiments(studio: Studio) -> None:
    told = python(
        studio,
        "result = chord([run('a'), run('b')])(run('body'))\n"
        "record = result.get(timeout=110)\n"
        "print(json.dumps([record['args'], record['status'], [r.get()['args'] for r in result.parent]]))\n",
    )
    assert told == [["body"], "finished", [["a"], ["b"]]]


def test_a_chord_with_an_experiment_that_fails(studio: Studio) -> None:
    told = python(
        studio,
        "result = chord([run('a'), run('1')])(run('body'))\n"
        "try: result.get(timeout=110, follow_parents=False)\n"
        "except Exception as exc: print(json.dumps([type(exc).__name__, 'exit code 1' in str(exc), result.id]))\n",
    )
    assert told[:2] == ["ChordError", True]
    assert studio.store.journal(told[2]).refresh().experiment is None


def test_a_chain_stops_at_an_experiment_that_fails(studio: Studio) -> None:
    told = python(
        studio,
        "result = chain(run('1'), run('b'), run('c')).apply_async()\n"
        "try: result.get(timeout=110, follow_parents=False)\n"
        "except ExperimentFailed as exc: print(json.dumps([exc.id == result.parent.parent.id, exc.exit_code]))\n",
    )
    assert told == [True, 1]


def test_a_prefork_worker_runs_experiments(studio: Studio) -> None:
    worker = studio.start(
        "celery", "-A", "studio_celery", "worker", "-P", "prefork", "-c", "2", "-Q", "forked", "-l", "INFO"
    )
    studio.wait_until_ready(worker)
    told = python(
        studio,
        "header = [run('a').set(queue='forked'), run('b').set(queue='forked')]\n"
        "record = chord(header)(run('body').set(queue='forked')).get(timeout=110)\n"
        "print(json.dumps([record['args'], record['status'], app.backend.as_uri()]))\n",
    )
    assert told == [["body"], "finished", str(studio.home / "store")]

"""A process that submits experiments from the directory `BENCH_WORK`, see `calls`."""

from __future__ import annotations

import os

from calls import serve

from studio_celery import run_experiment


def submit(script: str, args: list[str]) -> str:
    """Submit one; return its id once the broker has confirmed it."""
    return str(run_experiment.delay(script, args).id)


if __name__ == "__main__":
    os.chdir(os.environ["BENCH_WORK"])
    serve({"submit": submit})

"""Experiments as data."""

from __future__ import annotations

import pytest

from studio_celery.errors import UsageError
from studio_celery.experiment import Capture, Experiment, NewerSchema, Resources, check_queue_name, new_id
from studio_celery.runtimes.contract import Exit
from studio_celery.submission.request import make_request, split_options
from studio_celery.supervisor.verdict import describe

EXPERIMENT = Experiment(
    id=new_id(),
    queue="gpu",
    script="a.py",
    args=("--lr", "0.1"),
    workspace="0" * 64,
    resources=Resources(gpus=2, memory_bytes=8 * 2**30),
    captures=(Capture(path="out", tag="out"),),
    environment={"A": "b"},
)


def test_an_experiment_survives_json() -> None:
    again = Experiment.from_dict(EXPERIMENT.to_dict())
    assert again == EXPERIMENT
    assert again.digest() == EXPERIMENT.digest()


def test_a_newer_schema_is_refused_with_the_next_step() -> None:
    with pytest.raises(NewerSchema, match="upgrade"):
        Experiment.from_dict({**EXPERIMENT.to_dict(), "schema": 99})


def test_ids_sort_by_time() -> None:
    ids = [new_id() for _ in range(100)]
    assert ids == sorted(ids)


@pytest.mark.parametrize("name", ["gpu", "a.b-c_d", "grüße", "team/gpu", "x" * 200])
def test_names_that_a_queue_can_have(name: str) -> None:
    assert check_queue_name(name) == name


@pytest.mark.parametrize("name", ["", "a,b", "a b", "a\nb", "x" * 201, "ü" * 40, "\udc80"])
def test_names_that_a_queue_cannot_have(name: str) -> None:
    with pytest.raises(UsageError, match="queue name"):
        check_queue_name(name)


@pytest.mark.parametrize("wrong", [{"gpus": -1}, {"cpus": 0}, {"memory_bytes": 0}, {"shm_bytes": -5}])
def test_resources_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="must be"):
        Resources(**wrong)  # type: ignore[arg-type]


def test_options_go_where_they_belong() -> None:
    fields, options = split_options({"gpus": 1, "queue": "q", "name": "n", "countdown": 5, "link": None})
    assert (fields, options) == ({"gpus": 1, "queue": "q", "name": "n"}, {"countdown": 5, "link": None})
    assert make_request("id", "a.py", (), **fields).resources == Resources(gpus=1)


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="'gpu'"):
        split_options({"gpu": 1})


@pytest.mark.parametrize(
    ("exit", "reason"),
    [
        (Exit(exit_code=0), ""),
        (Exit(exit_code=3), "exit code 3"),
        (Exit(signal=9), "killed by signal 9"),
        (Exit(signal=9, out_of_memory=True), "out of memory (limit 8 GiB)"),
    ],
)
def test_reasons_in_words(exit: Exit, reason: str) -> None:
    assert describe(exit, EXPERIMENT) == reason
